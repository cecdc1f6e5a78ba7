//! Sealed credentials over a real store, and what the desk says of them.

use blueprint_hub_provider_kit::{AWS, DIGITALOCEAN, Environment};
use blueprint_hub_provision_core::{CredentialStore, RightState};
use blueprint_hub_proxy_core::identity::SealingKey;
use blueprint_hub_store::SqliteStore;
use serde_json::json;
use tempfile::TempDir;

use super::*;

const BY: &str = "operator (socket)";

/// A store in a folder of its own.
fn store() -> (TempDir, Arc<SqliteStore>) {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(SqliteStore::open(folder.path()).unwrap());
    (folder, store)
}

async fn vault(store: &Arc<SqliteStore>, key: u8) -> Arc<Vault> {
    let sealing = Arc::new(SealingKey::new(&Secret::new([key; 32])).unwrap());
    Vault::open(Arc::<SqliteStore>::clone(store), sealing).await.unwrap()
}

/// A cloud that answers with what its credentials are.
struct Echo(Sources);

impl Account for Echo {
    fn look(&self, _: HubId) -> BoxFuture<'_, Result<AccountReport, ProviderError>> {
        async {
            let chain =
                Chain::new(DIGITALOCEAN, self.0.iter().map(|(_, source)| Arc::clone(source)).collect());
            let token = chain.get().await?.require("token")?.expose().clone();
            if token != "dop_v1_canary" {
                return Err(ProviderError::Deny { action: "use the account: the token is wrong".to_owned() });
            }
            let mut report = AccountReport { identity: "somebody".to_owned(), ..AccountReport::default() };
            report.note_right("droplet:read", RightState::Held);
            Ok(report)
        }
        .boxed()
    }
}

fn sources(vault: &Arc<Vault>, variable: Option<&'static str>) -> Sources {
    let environment = Environment::with(DIGITALOCEAN, move |name| {
        (name == "DO_TOKEN").then(|| variable.map(Into::into))?
    });
    vec![
        ("sealed", Arc::new(Sealed::new(Arc::clone(vault), DIGITALOCEAN))),
        ("environment", Arc::new(environment)),
    ]
}

fn desk(vault: &Arc<Vault>, variable: Option<&'static str>, is_on: bool) -> Accounts {
    let account: Arc<dyn Account> = Arc::new(Echo(sources(vault, variable)));
    let digitalocean = Entry {
        spec: DIGITALOCEAN,
        sources: sources(vault, variable),
        role: None,
        account: is_on.then_some(account),
        policy: Ok(Box::new(|_| json!({ "scopes": ["droplet:read"] }))),
        unused: &["PATH"],
    };
    let aws = Entry {
        spec: AWS,
        sources: Vec::new(),
        role: None,
        account: None,
        policy: Err("provider-aws"),
        unused: &[],
    };
    let others = BTreeMap::from([("sim".to_owned(), true)]);
    Accounts::new(HubId::from_bytes([7; 16]), Arc::clone(vault), vec![digitalocean, aws], others)
}

fn text(text: &str) -> Secret<String> {
    Secret::new(text.to_owned())
}

#[tokio::test]
async fn what_is_sealed_for_one_provider_is_not_opened_for_another_nor_with_another_key() {
    let (_folder, store) = store();
    let ours = vault(&store, 1).await;
    let given = Credentials::given(&DIGITALOCEAN, "a test", "dop_v1_canary").unwrap();
    let record = ours.set(&DIGITALOCEAN, &given, BY, now()).await.unwrap();
    assert!(!format!("{record:?}").contains("dop_v1"), "{record:?}");
    assert_eq!(record.shown, "...nary");
    let sealed = |vault: &Arc<Vault>, spec| Sealed::new(Arc::clone(vault), spec);
    assert_eq!(
        sealed(&ours, DIGITALOCEAN).get().await.unwrap().require("token").unwrap().expose(),
        "dop_v1_canary"
    );

    // Somebody moves the row in the database.
    let moved = CredentialRecord { provider: "hetzner".to_owned(), ..record };
    store.set_credentials(moved, String::new()).await.unwrap();
    let again = vault(&store, 1).await;
    let source = sealed(&again, blueprint_hub_provider_kit::HETZNER);
    assert!(source.is_there().await);
    let error = source.get().await.unwrap_err().to_string();
    assert!(error.contains("use hetzner") && error.contains("another key"), "{error}");

    let other = vault(&store, 2).await;
    let error = sealed(&other, DIGITALOCEAN).get().await.unwrap_err().to_string();
    for word in ["sealing.key", "provider configure digitalocean", "provider forget digitalocean"] {
        assert!(error.contains(word), "{error}");
    }
    // What is there on purpose is not passed over for another source.
    let view =
        desk(&other, Some("x"), true).list().await.into_iter().find(|view| view.name == "digitalocean");
    let origin = view.unwrap().origin.unwrap();
    assert!(origin.kind == "sealed" && origin.text.is_err(), "{origin:?}");
}

#[tokio::test]
async fn credentials_are_stored_used_at_once_kept_and_forgotten() {
    let (folder, store) = store();
    let vault_now = vault(&store, 1).await;
    let desk_now = desk(&vault_now, Some("from-the-environment"), true);
    let kind = async |desk: &Accounts| {
        let views = desk.list().await;
        views.iter().find(|view| view.name == "digitalocean").unwrap().origin.as_ref().unwrap().kind
    };
    assert_eq!(kind(&desk_now).await, "environment");
    let refused = desk_now.check("digitalocean").await.unwrap_err();
    assert!(
        matches!(refused, AccountError::Cloud("digitalocean", ProviderError::Deny { .. })),
        "{refused:?}"
    );

    let record = desk_now.configure("digitalocean", text("token = dop_v1_canary\n"), BY, 0).await.unwrap();
    assert_eq!((record.shown.as_str(), record.changed_by.as_str()), ("...nary", BY));
    assert_eq!(kind(&desk_now).await, "sealed");
    let report = desk_now.check("digitalocean").await.unwrap();
    assert!(report.problems.is_empty() && report.identity == "somebody");
    assert!(report.notes.iter().any(|note| note.starts_with("PATH is set and not used")), "{report:?}");
    let views = desk_now.list().await;
    let view = views.iter().find(|view| view.name == "digitalocean").unwrap();
    assert!(matches!(&view.checked, Some((_, problems)) if problems.is_empty()), "{view:?}");
    assert!(!format!("{views:?} {report:?}").contains("canary"), "{views:?}");

    // Machines stand: nothing is changed unless somebody insists.
    let other = desk_now.configure("digitalocean", text("dop_v1_other-canary"), BY, 2).await.unwrap_err();
    let none = desk_now.forget("digitalocean", BY, 2).await.unwrap_err();
    for refused in [other, none] {
        assert!(matches!(refused, AccountError::Standing("digitalocean", 2)), "{refused:?}");
    }
    desk_now.check("digitalocean").await.unwrap();

    drop((desk_now, vault_now));
    drop(store);
    let store = Arc::new(SqliteStore::open(folder.path()).unwrap());
    let again = vault(&store, 1).await;
    let desk_again = desk(&again, Some("from-the-environment"), true);
    desk_again.check("digitalocean").await.unwrap();
    assert!(desk_again.forget("digitalocean", BY, 0).await.unwrap());
    assert!(!desk_again.forget("digitalocean", BY, 2).await.unwrap(), "nothing is left to lose");
    assert_eq!(kind(&desk_again).await, "environment");
    drop((desk_again, again));
    drop(store);
    let bytes = std::fs::read(folder.path().join("hub.db")).unwrap();
    assert!(!bytes.windows(13).any(|part| part == b"dop_v1_canary"), "the token is in the database");
}

#[tokio::test]
async fn what_cannot_be_is_refused_with_its_reason() {
    let (_folder, store) = store();
    let vault = vault(&store, 1).await;
    let desk = desk(&vault, None, false);
    for (name, given, words) in [
        ("mars", "x", "there is no provider"),
        ("sim", "x", "needs no credentials"),
        ("equinix", "x", "Equinix Metal ended on 2026-06-30"),
        ("aws", "x", "built without the provider aws"),
        ("digitalocean", "", "has no token"),
        ("digitalocean", "secret = canary", "known are token"),
        ("digitalocean", "{\"token\": \"canary\", \"token\": 7}", "no JSON object"),
        ("digitalocean", "token = a canary", "a blank"),
    ] {
        let error = desk.configure(name, text(given), BY, 0).await.unwrap_err();
        assert!(error.to_string().contains(words) && !format!("{error:?}").contains("canary"), "{error:?}");
    }
    assert!(store.credentials().await.unwrap().is_empty());
    assert!(matches!(desk.check("digitalocean").await, Err(AccountError::Disabled("digitalocean"))));
    assert!(matches!(desk.policy("aws").await, Err(AccountError::NotBuilt("aws", "provider-aws"))));
    assert_eq!(desk.policy("digitalocean").await.unwrap(), json!({ "scopes": ["droplet:read"] }));
    let views = desk.list().await;
    let names: Vec<_> = views.iter().map(|view| view.name.as_str()).collect();
    assert_eq!(names, ["aws", "digitalocean", "sim"]);
    let none = views[1].origin.as_ref().unwrap();
    assert!(none.kind == "none" && none.text.as_ref().is_err_and(|why| why.contains("DIGITALOCEAN_TOKEN")));
}
