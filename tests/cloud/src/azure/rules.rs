//! Rules of Azure's reference that one request can break, and those of our own that every order has to keep.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use serde_json::Value;

use crate::server::Request;

/// Versions of the network API that a machine's document may name.
const NETWORK_APIS: [&str; 2] = ["2020-11-01", "2022-11-01"];

/// What an order has to say, word for word.
const SAID: [(&str, &str); 14] = [
    ("/properties/storageProfile/osDisk/createOption", "FromImage"),
    ("/properties/storageProfile/osDisk/deleteOption", "Delete"),
    ("/properties/storageProfile/osDisk/managedDisk/storageAccountType", "StandardSSD_LRS"),
    ("/properties/networkProfile/networkInterfaceConfigurations/0/properties/deleteOption", "Delete"),
    ("/properties/networkProfile/networkInterfaceConfigurations/0/properties/primary", "true"),
    (
        concat!(
            "/properties/networkProfile/networkInterfaceConfigurations/0",
            "/properties/ipConfigurations/0/properties/publicIPAddressConfiguration/sku/name"
        ),
        "Standard",
    ),
    (
        concat!(
            "/properties/networkProfile/networkInterfaceConfigurations/0",
            "/properties/ipConfigurations/0/properties/publicIPAddressConfiguration/properties/deleteOption"
        ),
        "Delete",
    ),
    (
        concat!(
            "/properties/networkProfile/networkInterfaceConfigurations/0",
            "/properties/ipConfigurations/0/properties/publicIPAddressConfiguration/properties/publicIPAllocationMethod"
        ),
        "Static",
    ),
    ("/properties/osProfile/linuxConfiguration/disablePasswordAuthentication", "true"),
    ("/properties/osProfile/adminUsername", "blueprint"),
    ("/properties/storageProfile/imageReference/publisher", "Canonical"),
    ("/properties/storageProfile/imageReference/version", "latest"),
    ("/properties/securityProfile/securityType", "TrustedLaunch"),
    ("/location", "eastus"),
];

/// Those that a request breaks.
pub(super) fn of_request(request: &Request) -> Vec<String> {
    let mut broken = Vec::new();
    let mut rule = |is_kept: bool, text: &str| {
        if !is_kept {
            broken.push(text.to_owned());
        }
    };
    rule(request.header("user-agent").is_some(), "no user agent");
    if request.path.ends_with("/oauth2/v2.0/token") {
        let form = String::from_utf8_lossy(&request.body);
        rule(form.contains("grant_type=client_credentials"), "a grant that is not that of an application");
        rule(
            form.contains("scope=https%3A%2F%2Fmanagement.azure.com%2F.default"),
            "a scope that is not the API's",
        );
        return broken;
    }
    if request.path == "/api/retail/prices" {
        rule(request.header("authorization").is_none(), "the token is given to the public price list");
        return broken;
    }
    if request.path.starts_with("/metadata/") {
        rule(request.header("metadata") == Some("true"), "no header Metadata: true");
        rule(request.query("resource") == Some("https://management.azure.com/"), "another resource");
        return broken;
    }
    let is_bearer = request.header("authorization").is_some_and(|text| text.starts_with("Bearer "));
    rule(is_bearer, "no bearer token");
    let is_json = request.header("content-type").is_some_and(|text| text.starts_with("application/json"));
    rule(request.body.is_empty() || is_json, "a body without content-type: application/json");
    let version = request.query("api-version").unwrap_or_default();
    rule(version.len() == 10 && version.starts_with("20"), "no api-version");
    rule(!request.path.ends_with("/powerOff"), "powerOff goes on being billed");
    let parts: Vec<_> = request.path.split('/').collect();
    let is_group = parts.len() == 5 && parts.get(3) == Some(&"resourceGroups");
    rule(!(request.method == Method::DELETE && is_group), "a whole resource group is deleted");
    rule(!request.path.contains("people"), "what is not the hub's is touched");
    if request.method == Method::PUT && request.path.contains("/virtualMachines/") {
        rule(request.header("if-none-match") == Some("*"), "a machine is made over another one");
        of_order(&request.json(), parts.last().copied().unwrap_or_default(), &mut rule);
    }
    broken
}

fn of_order(order: &Value, name: &str, rule: &mut impl FnMut(bool, &str)) {
    for (path, wanted) in SAID {
        // A GPU's drivers are signed by nobody; own images say nothing of their security.
        let said = match order.pointer(path) {
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
            None => String::new(),
        };
        let is_arm = order
            .pointer("/properties/storageProfile/imageReference/sku")
            .is_some_and(|sku| sku == "server-arm64");
        rule(said == wanted || (path.contains("securityType") && is_arm), &format!("{path} is not {wanted}"));
    }
    let text = |path: &str| order.pointer(path).and_then(Value::as_str).unwrap_or_default();
    let first = "/properties/networkProfile/networkInterfaceConfigurations/0/properties";
    rule(
        text(&format!("{first}/networkSecurityGroup/id")).contains("/networkSecurityGroups/"),
        "a machine behind no security group",
    );
    rule(
        text(&format!("{first}/ipConfigurations/0/properties/subnet/id")).contains("/subnets/"),
        "a machine in no subnet",
    );
    rule(
        NETWORK_APIS.contains(&text("/properties/networkProfile/networkApiVersion")),
        "no networkApiVersion that there is",
    );
    rule(
        order.pointer("/properties/networkProfile/networkInterfaces").is_none(),
        "interfaces and their configurations exclude each other",
    );
    rule(order.pointer("/properties/osProfile/adminPassword").is_none(), "a password");
    rule(
        text("/properties/osProfile/linuxConfiguration/ssh/publicKeys/0/keyData").starts_with("ssh-"),
        "no SSH key",
    );
    let data = STANDARD.decode(text("/properties/osProfile/customData"));
    rule(
        data.is_ok_and(|data| data.len() <= 65_535),
        "customData that is no base64, or of more than 65535 bytes",
    );
    rule(
        (1..=64).contains(&name.len()) && text("/properties/osProfile/computerName") == name,
        "a name that Linux does not take",
    );
    let tags = order["tags"].as_object().cloned().unwrap_or_default();
    let is_tag = |name: &String| name.len() <= 512 && !name.contains(['<', '>', '%', '&', '\\', '?', '/']);
    rule((1..=50).contains(&tags.len()) && tags.keys().all(is_tag), "tags that are none");
    let is_spot = text("/properties/priority") == "Spot";
    let has = |path: &str| order.pointer(path).is_some();
    rule(
        is_spot == has("/properties/evictionPolicy"),
        "an eviction policy without Spot, or Spot without one",
    );
    rule(
        is_spot == has("/properties/billingProfile/maxPrice"),
        "a highest price without Spot, or Spot without one",
    );
}
