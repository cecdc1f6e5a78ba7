//! Tables `service`: what the machine offers by itself.

use blueprint_common_runtime::config::{Problems, Settings};
use blueprint_common_types::{CheckPace, HealthCheck, MetricsPlace, ServiceKey};

use crate::pace::PaceArgs;
use crate::service::{LocalAddress, MAX_SERVICES, ServiceSpec};

pub(super) fn services(settings: &Settings, problems: &mut Problems) -> Vec<ServiceSpec> {
    let mut services: Vec<ServiceSpec> = Vec::new();
    for row in settings.rows("service") {
        let blueprint = row.take("blueprint", problems);
        let service = row.take("service", problems);
        let local: Option<LocalAddress> = row.take("local", problems);
        let port: Option<u16> = row.take_optional("port", problems);
        let udp: Option<bool> = row.take("udp", problems);
        let check: Option<HealthCheck> = row.take("check", problems);
        let metrics: Option<MetricsPlace> = row.take("metrics", problems);
        let pace = pace(&row, problems);
        if port == Some(0) {
            row.refuse("port", "not within 1 and 65535", problems);
        }
        let (
            Some(blueprint),
            Some(service),
            Some(LocalAddress(local)),
            Some(check),
            Some(metrics),
            Some(udp),
            Some(pace),
        ) = (blueprint, service, local, check, metrics, udp, pace)
        else {
            continue;
        };
        let port = port.unwrap_or_else(|| local.port());
        if let Some(other) = services.iter().find(|other| other.port == port) {
            row.refuse(
                "port",
                &format!("overlay port {port} is taken by service {}", other.service),
                problems,
            );
            continue;
        }
        services.push(ServiceSpec {
            service: ServiceKey { blueprint, service },
            port,
            local,
            check,
            pace,
            metrics,
            udp,
            run: None,
        });
    }
    if services.len() > MAX_SERVICES {
        problems.add("service", format!("{} services are more than {MAX_SERVICES}", services.len()));
    }
    services
}

fn pace(row: &Settings, problems: &mut Problems) -> Option<CheckPace> {
    let args = PaceArgs {
        interval: row.take("check_interval", problems)?,
        timeout: row.take("check_timeout", problems)?,
        fall: row.take("check_fall", problems)?,
        rise: row.take("check_rise", problems)?,
        grace: row.take("check_grace", problems)?,
    };
    match args.read() {
        Ok(pace) => Some(pace),
        Err(error) => {
            row.refuse("check", &format!("its pace: {error}"), problems);
            None
        }
    }
}
