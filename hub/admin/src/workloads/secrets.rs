//! Secrets of workloads on their way into the store.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use blueprint_common_types::workload::{Bundle, RegistryLogin, Source, WorkloadSpec};
use blueprint_common_types::{Secret, ServiceKey};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::AdminState;
use crate::error::ApiError;

/// How a node signs in at the registry of an image.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Login {
    user: String,
    password: String,
}

/// Secrets that a request brings along; what it does not say stays as it is.
pub(crate) struct Secrets<'a> {
    pub(crate) keystore: Option<&'a BTreeMap<String, String>>,
    pub(crate) registry: Option<&'a Login>,
}

/// The secrets of a workload as they are stored.
pub(crate) struct Sealed {
    pub(crate) bundle: Option<String>,
    /// The registry of a login that it had, and has not any more: its image is of another one.
    pub(crate) left_out: Option<String>,
}

impl Sealed {
    /// Says in the answer, and in the log, that a login was left out.
    pub(crate) fn tell(&self, service: ServiceKey, mut row: Value) -> Value {
        if let (Some(registry), Some(fields)) = (&self.left_out, row.as_object_mut()) {
            tracing::warn!(%service, %registry, "the image is of another registry now: the login of the former one is left out");
            fields.insert("login_left_out".to_owned(), json!(registry));
        }
        row
    }
}

/// Images alone come from registries.
pub(crate) fn check_login(spec: &WorkloadSpec, login: Option<&Login>) -> Result<(), ApiError> {
    if login.is_some() && !matches!(spec.source, Source::Container { .. }) {
        let text = format!("registry: a source of the kind {} comes from no registry", spec.source.kind());
        return Err(ApiError::invalid(text, "leave it out, or give an image"));
    }
    Ok(())
}

/// The secrets of a workload as they are stored: those that it has, and in their place what a request brings along. A login
/// that it has stays where the image is of the registry that the login is for.
pub(crate) fn seal(
    state: &AdminState,
    key: ServiceKey,
    before: Option<String>,
    source: &Source,
    secrets: &Secrets<'_>,
) -> Result<Sealed, ApiError> {
    let brings_none = secrets.keystore.is_none() && secrets.registry.is_none();
    let opened = before.as_ref().map(|sealed| state.hub.open_keystore(key, sealed));
    let mut bundle = match opened {
        None if brings_none => return Ok(Sealed { bundle: None, left_out: None }),
        None => Bundle::default(),
        Some(Some(bundle)) => bundle,
        // What cannot be read goes to no node either.
        Some(None) if brings_none => return Ok(Sealed { bundle: before, left_out: None }),
        // Keys that are given anew need nothing of those that cannot be read any more.
        Some(None) if secrets.keystore.is_some() => Bundle::default(),
        Some(None) => {
            return Err(ApiError::conflict(
                "the keys that it has were sealed with another key of the hub",
                "give its keystore again, together with the login",
            ));
        }
    };
    let left_out = merge(&mut bundle, source, secrets)?;
    if brings_none {
        if left_out.is_none() {
            // As it was, to the byte: it is compared with what serves.
            return Ok(Sealed { bundle: before, left_out });
        }
        if bundle.keystore.is_empty() && bundle.envelope_key.is_none() && bundle.registry.is_none() {
            return Ok(Sealed { bundle: None, left_out });
        }
    }
    let sealed = state.hub.seal_keystore(key, &bundle);
    let sealed = sealed.ok_or_else(|| ApiError::unavailable("the keystore cannot be sealed now"))?;
    Ok(Sealed { bundle: Some(sealed), left_out })
}

/// Brings what a request has into what there is. Gives the registry of a login that is not for this image, and goes.
fn merge(bundle: &mut Bundle, source: &Source, secrets: &Secrets<'_>) -> Result<Option<String>, ApiError> {
    if let Some(files) = secrets.keystore {
        bundle.keystore.clear();
        add_keys(bundle, files)?;
    }
    // What is no image is fetched without a login, and one that it has is for an image to come.
    let Source::Container { image, .. } = source else { return Ok(None) };
    if let Some(Login { user, password }) = secrets.registry {
        let login =
            RegistryLogin::new(RegistryLogin::registry_of(image), user, Secret::new(password.clone()));
        let hint = "give both as the registry knows them";
        let login = login.map_err(|error| ApiError::invalid(format!("registry: {error}"), hint))?;
        bundle.registry = Some(login);
    }
    let foreign = bundle.registry.take_if(|login| !login.is_for(image));
    Ok(foreign.map(|login| login.registry))
}

fn add_keys(bundle: &mut Bundle, files: &BTreeMap<String, String>) -> Result<(), ApiError> {
    let hint = "give a folder as the Blueprint Manager has it: <kind>/<name>, and nothing else in it";
    for (path, content) in files {
        let content = STANDARD.decode(content);
        let content =
            content.map_err(|_| ApiError::invalid(format!("keystore: {path} is not base64"), hint))?;
        bundle
            .add(path, Secret::new(content))
            .map_err(|error| ApiError::invalid(format!("keystore: {error}"), hint))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use blueprint_common_types::workload::Sha256Digest;

    use super::*;

    const SERVICE: ServiceKey = ServiceKey { blueprint: 7, service: 42 };
    const NOTHING: Secrets<'static> = Secrets { keystore: None, registry: None };

    fn image(image: &str) -> Source {
        let digest = Sha256Digest::from_bytes([7; 32]);
        Source::Container { image: image.to_owned(), digest, ports: Vec::new(), volumes: Vec::new() }
    }

    fn login(password: &str) -> Login {
        Login { user: "u".to_owned(), password: password.to_owned() }
    }

    fn signed_in(at: &str, password: &str) -> Bundle {
        let mut bundle = Bundle::default();
        let login = login(password);
        let secrets = Secrets { registry: Some(&login), ..NOTHING };
        assert_eq!(merge(&mut bundle, &image(at), &secrets).unwrap(), None);
        bundle
    }

    fn password(bundle: &Bundle) -> Option<(&str, &str)> {
        let login = bundle.registry.as_ref()?;
        Some((login.registry.as_str(), login.password.expose().as_str()))
    }

    #[test]
    fn a_login_stays_for_images_of_its_registry_and_goes_with_the_first_of_another() {
        let mut bundle = signed_in("r.example/a", "first");
        bundle.add("Ecdsa/ab", Secret::new(vec![1])).unwrap();
        for same in [image("r.example/a"), image("r.example/b/c"), Source::Testing { path: "/x".to_owned() }]
        {
            assert_eq!(merge(&mut bundle, &same, &NOTHING).unwrap(), None);
            assert_eq!(password(&bundle), Some(("r.example", "first")));
        }
        let gone = merge(&mut bundle, &image("evil.example/r.example/a"), &NOTHING).unwrap();
        assert_eq!((gone.as_deref(), password(&bundle)), (Some("r.example"), None));
        assert!(bundle.keystore.contains_key("Ecdsa/ab"), "its keys are for it, wherever it comes from");
        let back = merge(&mut bundle, &image("r.example/a"), &NOTHING).unwrap();
        assert_eq!((back, password(&bundle)), (None, None), "it has to be given again");
    }

    #[test]
    fn a_login_that_is_given_is_for_the_registry_of_the_image_beside_it() {
        let mut bundle = signed_in("r.example/a", "first");
        let second = login("second");
        let secrets = Secrets { registry: Some(&second), ..NOTHING };
        assert_eq!(merge(&mut bundle, &image("team/demo"), &secrets).unwrap(), None);
        assert_eq!(password(&bundle), Some(("docker.io", "second")));
    }

    #[test]
    fn new_keys_alone_leave_the_login_of_another_registry_out_too() {
        let mut bundle = signed_in("r.example/a", "first");
        let files = BTreeMap::from([("Ecdsa/cd".to_owned(), STANDARD.encode(b"key"))]);
        let secrets = Secrets { keystore: Some(&files), ..NOTHING };
        let gone = merge(&mut bundle, &image("r.example:5000/a"), &secrets).unwrap();
        assert_eq!((gone.as_deref(), password(&bundle)), (Some("r.example"), None));
        assert!(bundle.keystore.contains_key("Ecdsa/cd"));
    }

    #[test]
    fn the_answer_names_the_registry_whose_login_is_left_out() {
        let sealed = |left_out: Option<&str>| Sealed { bundle: None, left_out: left_out.map(str::to_owned) };
        assert_eq!(sealed(None).tell(SERVICE, json!({ "a": 1 })), json!({ "a": 1 }));
        let told = sealed(Some("r.example")).tell(SERVICE, json!({ "a": 1 }));
        assert_eq!(told, json!({ "a": 1, "login_left_out": "r.example" }));
    }
}
