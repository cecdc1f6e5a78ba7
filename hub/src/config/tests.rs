//! The configuration as a whole: defaults, and every problem with its key.

use super::*;

fn load(flags: &[(&str, &str)]) -> Result<HubConfig, String> {
    let flags = flags.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let sources = Sources { file: None, env: Vec::new(), flags };
    HubConfig::load(&sources).map(|(config, _)| config).map_err(|error| error.to_string())
}

#[test]
fn the_defaults_are_good() {
    let config = load(&[]).unwrap();
    assert_eq!(config.heartbeat, Duration::from_secs(5));
    let hub = HubId::from_bytes([7; 16]);
    assert_eq!(config.overlay_v6(hub).to_string(), "fd07:707:707::/64");
}

#[test]
fn what_machines_may_begin_with_the_hub_is_a_list_and_nothing_by_default() {
    assert_eq!(load(&[]).unwrap().to_hub, []);
    assert_eq!(load(&[("tunnel.to_hub", "any")]).unwrap().to_hub, [Rule::ANY]);
    assert_eq!(load(&[("tunnel.to_hub", "tcp/22, udp/53")]).unwrap().to_hub.len(), 2);
    let error = load(&[("tunnel.to_hub", "none,tcp")]).unwrap_err();
    assert!(error.contains("write any, icmp, tcp"), "{error}");
}

#[test]
fn the_way_to_the_operators_rpc_is_one_port_or_none() {
    assert_eq!(load(&[]).unwrap().rpc_port, Some(7446));
    assert_eq!(load(&[("tunnel.rpc_port", "off")]).unwrap().rpc_port, None);
    assert!(load(&[("tunnel.rpc_port", "0")]).unwrap_err().contains("tunnel.rpc_port"));
    assert_eq!(load(&[]).unwrap().rpc_idle, Duration::from_secs(600));
    let error = load(&[("tunnel.rpc_idle_timeout", "500ms")]).unwrap_err();
    assert!(error.contains("tunnel.rpc_idle_timeout"), "{error}");
}

#[test]
fn one_artefact_is_no_larger_than_all_of_them() {
    let limits = load(&[("artefacts.max_bytes", "3MiB"), ("artefacts.max_total_bytes", "4MiB")]).unwrap();
    let limits = limits.workloads.artefacts;
    assert_eq!((limits.one, limits.all), (3 << 20, 4 << 20));
    let error = load(&[("artefacts.max_bytes", "30GiB")]).unwrap_err();
    assert!(error.contains("artefacts.max_bytes"), "{error}");
}

#[test]
fn versions_that_are_kept_are_a_few_and_not_a_flood() {
    assert_eq!(load(&[]).unwrap().workloads.rules(Duration::ZERO).keep_versions, 10);
    for wrong in ["1", "51", "all"] {
        let error = load(&[("workloads.keep_versions", wrong)]).unwrap_err();
        assert!(error.contains("workloads.keep_versions"), "{error}");
    }
}

#[test]
fn the_page_of_the_manual_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/config-hub.md");
    if std::env::var_os("UPDATE_GENERATED").is_some() {
        std::fs::write(path, SCHEMA.markdown()).unwrap();
    }
    let found = std::fs::read_to_string(path).unwrap_or_default();
    assert!(found == SCHEMA.markdown(), "run UPDATE_GENERATED=1 cargo test -p blueprint-hub");
}

#[test]
fn plain_http_stays_on_loopback_unless_somebody_insists() {
    let tls = [("proxy.tls", "hub"), ("proxy.tls_listen", "0.0.0.0:8277")];
    assert!(load(&tls).is_ok());
    let open = [tls[0], tls[1], ("proxy.listen", "0.0.0.0:8276")];
    assert!(load(&open).unwrap_err().contains("proxy.listen"));
    assert!(load(&[open[0], open[1], open[2], ("proxy.plaintext_dangerously", "true")]).is_ok());
    assert!(load(&[("proxy.tls_listen", "127.0.0.1:8277")]).unwrap_err().contains("proxy.tls_listen"));
    assert!(load(&[("proxy.tls", "hub"), ("proxy.listen", "0.0.0.0:443")]).is_ok());
}

#[test]
fn http3_and_the_carriers_have_one_port_443() {
    let tls = [("proxy.tls", "hub"), ("proxy.tls_listen", "0.0.0.0:443"), ("proxy.http3", "true")];
    assert_eq!(load(&[]).unwrap().http3, Http3Listen::Off);
    assert_eq!(load(&tls).unwrap().http3, Http3Listen::CarrierOrOwn);
    let with = |key, value| load(&[tls[0], tls[1], tls[2], (key, value)]);
    assert_eq!(with("tunnel.carrier_listen", "off").unwrap().http3, Http3Listen::Own);
    for (key, value, refused) in [
        ("proxy.http3_on_carrier", "false", "proxy.http3_on_carrier"),
        ("proxy.http3_on_carrier", "maybe", "proxy.http3_on_carrier"),
        ("tunnel.carrier_listen", "192.0.2.1:443", "proxy.http3_on_carrier"),
        // `auto` of the carriers cannot have it then.
        ("tunnel.listen", "0.0.0.0:443", "tunnel.listen"),
        ("tunnel.carrier_listen", "0.0.0.0:51820", "tunnel.carrier_listen"),
    ] {
        let error = with(key, value).unwrap_err();
        assert!(error.contains(refused), "{key} = {value}: {error}");
    }
    let error = load(&[("proxy.http3_on_carrier", "yes")]).unwrap_err();
    assert!(error.contains("not auto, true or false"), "{error}");
}

#[test]
fn certificates_are_ordered_only_where_the_operator_agrees() {
    let good = [
        ("proxy.tls", "acme"),
        ("proxy.acme_names", "Hub.example, a.hub.example"),
        ("proxy.acme_agree_terms", "true"),
        ("proxy.acme_contact", "ops@hub.example"),
    ];
    let ProxyTls::Acme(acme) = load(&good).unwrap().proxy.tls else { panic!("not acme") };
    assert!(acme.names.contains("hub.example") && acme.contact.as_deref() == Some("mailto:ops@hub.example"));
    for (key, value) in [
        ("proxy.acme_agree_terms", "false"),
        ("proxy.acme_names", "*.hub.example"),
        ("proxy.acme_names", ","),
        ("proxy.acme_directory", "http://hub.example"),
        ("proxy.acme_contact", "nobody"),
    ] {
        let flags: Vec<_> = good.iter().copied().filter(|(k, _)| *k != key).chain([(key, value)]).collect();
        let error = load(&flags).unwrap_err();
        assert!(error.contains(key), "{key}: {error}");
    }
    assert!(load(&good[..1]).unwrap_err().contains("proxy.acme_names"));
}

#[test]
fn every_problem_is_reported_at_once() {
    let error = load(&[
        ("tunnel.overlay_v4", "192.168.0.0/16"),
        ("tunnel.mtu", "9001"),
        ("tunnel.to_hub", "tcp/0"),
        ("proxy.listen", "0.0.0.0:80"),
        ("proxy.http3", "true"),
        ("proxy.forward_ports", "20000"),
        ("oauth.jwks_hosts", "issuer.example,https://issuer.example/"),
        ("session.target_ttl", "6s"),
        ("admin.listen", "0.0.0.0:1"),
    ])
    .unwrap_err();
    for key in [
        "tunnel.overlay_v4",
        "tunnel.mtu",
        "tunnel.to_hub",
        "proxy.listen",
        "proxy.http3",
        "proxy.forward_ports",
        "oauth.jwks_hosts",
        "session.target_ttl",
        "admin.listen",
    ] {
        assert!(error.contains(key), "{key} is missing in: {error}");
    }
}

#[cfg(feature = "provider-digitalocean")]
#[test]
fn digitalocean_is_off_until_somebody_names_it_and_every_mistake_is_told() {
    assert!(load(&[]).unwrap().providers.digitalocean.is_none());
    let on = ("providers.digitalocean.enabled", "true");
    let config = load(&[on, ("providers.digitalocean.regions", "fra1, nyc3,fra1")]).unwrap().providers;
    assert_eq!(config.digitalocean.as_ref().unwrap().regions, ["fra1", "nyc3"]);
    assert!(config.names().contains("digitalocean"));
    for (key, values) in [
        ("providers.digitalocean.regions", &["Frankfurt", "fra1;nyc3"][..]),
        ("providers.digitalocean.image", &["", "../x", "a b"]),
        (
            "providers.digitalocean.endpoint",
            &[
                "http://example.org",
                "https://u@example.org",
                "https://example.org/v2",
                "ftp://127.0.0.1",
                "x",
            ],
        ),
        ("providers.digitalocean.enabled", &["maybe"]),
    ] {
        for value in values {
            let error = load(&[on, (key, value)]).unwrap_err();
            assert!(error.contains(key), "{value}: {error}");
        }
    }
    for endpoint in ["https://api.example.org", "http://127.0.0.1:8080/", "http://[::1]:8080"] {
        assert!(load(&[on, ("providers.digitalocean.endpoint", endpoint)]).is_ok(), "{endpoint}");
    }
}

#[cfg(feature = "provider-digitalocean")]
#[test]
fn a_region_of_another_tool_counts_where_droplets_are_offered_and_harms_nobody_else() {
    let taken = |enabled: &str, region: &'static str| {
        let flags = vec![("providers.digitalocean.enabled".to_owned(), enabled.to_owned())];
        let (settings, mut problems) = SCHEMA.load(&Sources { flags, ..Sources::default() });
        let variable = |name: &str| (name == "DO_REGION").then(|| region.to_owned());
        let taken = DigitalOceanSettings::take_with(&settings, &mut problems, variable);
        (taken, problems.into_result().map_err(|error| error.to_string()))
    };
    assert!(matches!(taken("false", "eu-west-1"), (Some(None), Ok(()))));
    let (taken_on, problems) = taken("true", "fra1");
    assert!(taken_on.unwrap().unwrap().regions == ["fra1"] && problems.is_ok());
    let (_, problems) = taken("true", "eu-west-1");
    assert!(problems.unwrap_err().contains("set the key, or correct DO_REGION"));
}

#[cfg(not(feature = "provider-digitalocean"))]
#[test]
fn digitalocean_in_a_build_without_it_names_the_feature() {
    assert!(load(&[]).unwrap().providers.digitalocean.is_none());
    let error = load(&[("providers.digitalocean.enabled", "true")]).unwrap_err();
    assert!(error.contains("provider-digitalocean"), "{error}");
}

#[cfg(feature = "provider-linode")]
#[test]
fn clouds_of_one_token_are_off_until_somebody_names_them_and_every_mistake_is_told() {
    assert!(load(&[]).unwrap().providers.linode.is_none());
    let on = ("providers.linode.enabled", "true");
    let config =
        load(&[on, ("providers.linode.regions", "eu-central, us-east,eu-central")]).unwrap().providers;
    assert_eq!(config.linode.as_ref().unwrap().regions, ["eu-central", "us-east"]);
    assert!(config.names().contains("linode") && config.needs_agents());
    assert!(!config.without_account().contains_key("linode"));
    for (key, values) in [
        ("providers.linode.regions", &["Frankfurt", "eu;us"][..]),
        ("providers.linode.image", &["", "../x", "/x", "a\u{e4}"]),
        ("providers.linode.endpoint", &["http://example.org", "https://example.org/v4", "x"]),
        ("providers.linode.enabled", &["maybe"]),
    ] {
        for value in values {
            let error = load(&[on, (key, value)]).unwrap_err();
            assert!(error.contains(key), "{value}: {error}");
        }
    }
}

#[cfg(feature = "provider-vultr")]
#[test]
fn the_region_of_another_tool_counts_for_vultr_where_it_is_offered() {
    let taken = |enabled: &str, region: &'static str| {
        let flags = vec![("providers.vultr.enabled".to_owned(), enabled.to_owned())];
        let (settings, mut problems) = SCHEMA.load(&Sources { flags, ..Sources::default() });
        let variable = |name: &str| (name == "VULTR_DEFAULT_REGION").then(|| region.to_owned());
        let taken = rest_cloud::VULTR.take_with(&settings, &mut problems, variable);
        (taken, problems.into_result().map_err(|error| error.to_string()))
    };
    assert!(matches!(taken("false", "Frankfurt"), (Some(None), Ok(()))));
    let (vultr, problems) = taken("true", "fra");
    let vultr = vultr.unwrap().unwrap();
    assert!(vultr.regions == ["fra"] && vultr.image == "Debian 13 x64" && problems.is_ok());
    assert!(!vultr.bare_metal, "no firewall stands before such machines");
    let (_, problems) = taken("true", "Frankfurt");
    assert!(problems.unwrap_err().contains("set the key, or correct VULTR_DEFAULT_REGION"));
}

#[cfg(not(feature = "provider-linode"))]
#[test]
fn linode_in_a_build_without_it_names_the_feature() {
    let error = load(&[("providers.linode.enabled", "true")]).unwrap_err();
    assert!(error.contains("provider-linode"), "{error}");
}

#[cfg(feature = "provider-gcp")]
#[test]
fn regions_whose_public_prices_are_asked_for_are_few_and_may_be_none() {
    let regions = |text: &str| load(&[("prices.aws_regions", text)]).map(|config| config.prices.aws_regions);
    assert_eq!(load(&[]).unwrap().prices.aws_regions, ["us-east-1"]);
    assert_eq!(regions("off").unwrap(), Vec::<String>::new());
    assert_eq!(regions("us-west-2, eu-central-1,us-west-2").unwrap(), ["eu-central-1", "us-west-2"]);
    for wrong in [
        "",
        "useast1",
        "us-east-1,",
        "us-east-1/..",
        "US-EAST-1",
        "a-1,a-2,a-3,a-4,a-5,a-6,a-7",
        "cn-north-1",
    ] {
        let error = regions(wrong).unwrap_err();
        assert!(error.contains("prices.aws_regions"), "{wrong}: {error}");
    }
    let error = load(&[("prices.aws_endpoint", "http://192.0.2.1")]).unwrap_err();
    assert!(error.contains("prices.aws_endpoint"), "{error}");
}

#[test]
fn compute_engine_is_off_until_somebody_names_it_and_every_mistake_is_told() {
    assert!(load(&[]).unwrap().providers.gcp.is_none());
    let on = ("providers.gcp.enabled", "true");
    let region = ("providers.gcp.regions", "us-central1, europe-west1,us-central1");
    let providers = load(&[on, region]).unwrap().providers;
    let config = providers.gcp.as_ref().unwrap().config.clone();
    assert_eq!(
        config.regions.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["us-central1", "europe-west1"]
    );
    assert!(providers.names().contains("gcp") && providers.needs_agents());
    assert!(!providers.without_account().contains_key("gcp"));
    assert!(config.service_account.is_none() && config.public_ip && !config.spot);
    for (key, values) in [
        ("providers.gcp.regions", &["us-central1-a", "here"][..]),
        ("providers.gcp.image", &["ubuntu", "../x"]),
        ("providers.gcp.network", &["Default", "a/b"]),
        ("providers.gcp.subnetwork", &["A"]),
        ("providers.gcp.service_account", &["default"]),
        ("providers.gcp.endpoint", &["http://example.org", "https://example.org/compute"]),
        ("providers.gcp.public_ip", &["maybe"]),
    ] {
        for value in values {
            let error = load(&[on, region, (key, value)]).unwrap_err();
            assert!(error.contains(key), "{value}: {error}");
        }
    }
    let taken = |enabled: &str, region: &'static str| {
        let flags = vec![("providers.gcp.enabled".to_owned(), enabled.to_owned())];
        let (settings, mut problems) = SCHEMA.load(&Sources { flags, ..Sources::default() });
        let variable = |name: &str| (name == "GCP_DEFAULT_REGION").then(|| region.to_owned());
        let taken = GcpSettings::take_with(&settings, &mut problems, variable);
        (taken, problems.into_result().map_err(|error| error.to_string()))
    };
    assert!(matches!(taken("false", "nonsense"), (Some(None), Ok(()))));
    assert!(taken("true", "us-east1").0.unwrap().unwrap().config.regions.len() == 1);
    for (region, word) in [("nonsense", "correct GCP_DEFAULT_REGION"), ("", "name a region")] {
        let (_, problems) = taken("true", region);
        assert!(problems.unwrap_err().contains(word), "{region}");
    }
}

#[cfg(not(feature = "provider-gcp"))]
#[test]
fn compute_engine_in_a_build_without_it_names_the_feature() {
    assert!(load(&[]).unwrap().providers.gcp.is_none());
    let error = load(&[("providers.gcp.enabled", "true")]).unwrap_err();
    assert!(error.contains("provider-gcp"), "{error}");
}

#[cfg(feature = "provider-scaleway")]
#[test]
fn zones_of_scaleway_are_named_as_it_does_or_by_their_older_names() {
    assert!(load(&[]).unwrap().providers.scaleway.is_none());
    let on = ("providers.scaleway.enabled", "true");
    let zones = ("providers.scaleway.zones", "par1, nl-ams-1,fr-par-1,it-mil-1");
    let config = load(&[on, zones]).unwrap().providers;
    assert_eq!(config.scaleway.as_ref().unwrap().zones, ["fr-par-1", "nl-ams-1", "it-mil-1"]);
    assert!(config.names().contains("scaleway"));
    for (key, value) in [
        ("providers.scaleway.zones", "Paris"),
        ("providers.scaleway.zones", "fr-par"),
        ("providers.scaleway.zones", "pl"),
        ("providers.scaleway.image", "../x"),
        ("providers.scaleway.endpoint", "http://example.org"),
        ("providers.scaleway.enabled", "maybe"),
    ] {
        let error = load(&[on, (key, value)]).unwrap_err();
        assert!(error.contains(key), "{value}: {error}");
    }
}

#[cfg(not(feature = "provider-scaleway"))]
#[test]
fn scaleway_in_a_build_without_it_names_the_feature() {
    assert!(load(&[]).unwrap().providers.scaleway.is_none());
    let error = load(&[("providers.scaleway.enabled", "true")]).unwrap_err();
    assert!(error.contains("provider-scaleway"), "{error}");
}

#[cfg(feature = "provider-external")]
#[test]
fn further_plugins_stand_in_a_file_and_are_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("plugins.toml");
    std::fs::write(&path, "[[plugin]]\nname = \"rack\"\n").unwrap();
    let file = ("providers.external.plugins", path.to_str().unwrap());
    assert_eq!(load(&[file]).unwrap().providers.names().into_iter().collect::<Vec<_>>(), ["external-rack"]);
    let both = load(&[file, ("providers.external.enabled", "true")]).unwrap().providers.names();
    assert_eq!(both.into_iter().collect::<Vec<_>>(), ["external", "external-rack"]);
    for (value, word) in [("plugins.toml", "whole path"), ("/nowhere/plugins.toml", "cannot read")] {
        let error = load(&[("providers.external.plugins", value)]).unwrap_err();
        assert!(error.contains("providers.external.plugins") && error.contains(word), "{error}");
    }
}

#[cfg(feature = "provider-hivelocity")]
#[test]
fn facilities_of_hivelocity_are_named_by_code_or_city() {
    assert!(load(&[]).unwrap().providers.hivelocity.is_none());
    let on = ("providers.hivelocity.enabled", "true");
    let config =
        load(&[on, ("providers.hivelocity.facilities", "new-york, TPA1,NYC1,DAL9")]).unwrap().providers;
    assert_eq!(config.hivelocity.as_ref().unwrap().facilities, ["NYC1", "TPA1", "DAL9"]);
    for (key, value) in [
        ("providers.hivelocity.facilities", "us"),
        ("providers.hivelocity.facilities", "nyc1;tpa1"),
        ("providers.hivelocity.system", " "),
        ("providers.hivelocity.endpoint", "http://example.org"),
    ] {
        let error = load(&[on, (key, value)]).unwrap_err();
        assert!(error.contains(key), "{value}: {error}");
    }
}

#[cfg(not(feature = "provider-hivelocity"))]
#[test]
fn hivelocity_in_a_build_without_it_names_the_feature() {
    let error = load(&[("providers.hivelocity.enabled", "true")]).unwrap_err();
    assert!(error.contains("provider-hivelocity"), "{error}");
}

#[test]
fn equinix_metal_cannot_be_switched_on() {
    assert!(load(&[("providers.equinix.enabled", "false")]).is_ok());
    let error = load(&[("providers.equinix.enabled", "true")]).unwrap_err();
    for word in ["providers.equinix.enabled", "2026-06-30", "Hivelocity", "blueprint-hub offers"] {
        assert!(error.contains(word), "{error}");
    }
}

#[cfg(feature = "provider-aws")]
#[test]
fn ec2_is_off_until_somebody_names_it_and_every_mistake_is_told() {
    assert!(load(&[]).unwrap().providers.aws.is_none());
    let on = ("providers.aws.enabled", "true");
    let regions = ("providers.aws.regions", "eu-central-1, us-east-1,eu-central-1");
    let aws = load(&[on, regions]).unwrap().providers.aws.unwrap();
    assert_eq!(aws.config.regions.len(), 2);
    assert!(aws.config.public_ip && !aws.config.spot && aws.config.subnets.is_empty());
    for (key, value) in [
        ("providers.aws.regions", "atlantis"),
        ("providers.aws.image", "debian"),
        ("providers.aws.subnets", "subnet-1,vpc-1"),
        ("providers.aws.role", "hub"),
        ("providers.aws.spot", "maybe"),
    ] {
        let error = load(&[on, regions, (key, value)]).unwrap_err();
        assert!(error.contains(key), "{error}");
    }
}

#[cfg(not(feature = "provider-aws"))]
#[test]
fn a_provider_that_was_left_out_is_named_with_its_feature() {
    assert!(load(&[("providers.aws.regions", "us-east-1")]).is_ok());
    let error = load(&[("providers.aws.enabled", "true")]).unwrap_err();
    assert!(error.contains("providers.aws.enabled") && error.contains("feature provider-aws"), "{error}");
}

#[cfg(feature = "provider-ssh")]
#[test]
fn own_hosts_need_an_inventory() {
    assert!(load(&[]).unwrap().providers.ssh.is_none());
    let on = ("providers.ssh.enabled", "true");
    let error = load(&[on]).unwrap_err();
    assert!(error.contains("providers.ssh.hosts") && error.contains("host scan"), "{error}");
    let providers = load(&[on, ("providers.ssh.hosts", "hosts.toml")]).unwrap().providers;
    assert!(providers.names().contains("ssh") && providers.needs_agents());
}

#[cfg(not(feature = "provider-ssh"))]
#[test]
fn own_hosts_in_a_build_without_them_name_the_feature() {
    assert!(load(&[("providers.ssh.hosts", "hosts.toml")]).is_ok());
    let error = load(&[("providers.ssh.enabled", "true")]).unwrap_err();
    assert!(error.contains("feature provider-ssh"), "{error}");
}

#[cfg(feature = "provider-azure")]
#[test]
fn azure_is_off_until_somebody_names_it_and_every_mistake_is_told() {
    assert!(load(&[]).unwrap().providers.azure.is_none());
    let on = ("providers.azure.enabled", "true");
    let regions = ("providers.azure.regions", "westeurope, eastus,westeurope");
    assert!(load(&[on]).unwrap_err().contains("providers.azure.regions"));
    let providers = load(&[on, regions]).unwrap().providers;
    assert!(providers.names().contains("azure") && providers.needs_agents());
    assert!(!providers.without_account().contains_key("azure"));
    let azure = providers.azure.unwrap();
    assert!(azure.regions == ["westeurope", "eastus"] && azure.group.is_none() && !azure.spot);
    for (key, value) in [
        ("providers.azure.regions", "West Europe"),
        ("providers.azure.resource_group", "a/b"),
        ("providers.azure.resource_group", "ends."),
        ("providers.azure.image", "ubuntu"),
        ("providers.azure.image_arm64", "a:b:c"),
        ("providers.azure.spot", "maybe"),
        ("providers.azure.endpoint", "http://example.org"),
        ("providers.azure.login_endpoint", "https://login.example.org/tenant"),
    ] {
        let flags: Vec<_> =
            [on, regions].into_iter().filter(|(own, _)| *own != key).chain([(key, value)]).collect();
        let error = load(&flags).unwrap_err();
        assert!(error.contains(key), "{value}: {error}");
    }
}

#[cfg(not(feature = "provider-azure"))]
#[test]
fn azure_in_a_build_without_it_names_the_feature() {
    assert!(load(&[("providers.azure.regions", "eastus")]).is_ok());
    let error = load(&[("providers.azure.enabled", "true")]).unwrap_err();
    assert!(error.contains("feature provider-azure"), "{error}");
}
