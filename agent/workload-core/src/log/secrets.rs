//! What of a workload must not be shown.

use blueprint_common_types::Secret;
use blueprint_common_types::workload::{Bundle, WorkloadSpec};

/// Variables whose values are no secrets by their meaning.
const PLAIN: [&str; 12] = [
    "RUST_LOG",
    "RUST_BACKTRACE",
    "LOG_LEVEL",
    "LOG_FORMAT",
    "NO_COLOR",
    "TERM",
    "LANG",
    "LC_ALL",
    "TZ",
    "PATH",
    "HOME",
    "PORT",
];

/// Shortest part of the path of a URL that is taken for a key, in bytes.
const PATH_KEY: usize = 16;

/// The secrets of a workload: every value of its own environment, but for those whose name says that it is none; its keys;
/// and of URLs passwords, keys in the path and what is asked for.
#[must_use]
pub fn secrets(spec: &WorkloadSpec, bundle: &Bundle) -> Vec<Secret<Vec<u8>>> {
    let mut all = Vec::new();
    let mut add = |bytes: &[u8]| all.push(Secret::new(bytes.to_vec()));
    for (_, value) in spec.env.iter().filter(|(name, _)| !PLAIN.contains(&name.as_str())) {
        add(value.as_bytes());
        parts(value).iter().for_each(|part| add(part));
    }
    for url in [&spec.chain.http_rpc_url, &spec.chain.ws_rpc_url] {
        parts(url).iter().for_each(|part| add(part));
    }
    if let Some(key) = &bundle.envelope_key {
        add(key.expose());
        let digits: String = key.expose().iter().map(|byte| format!("{byte:02x}")).collect();
        add(digits.as_bytes());
    }
    if let Some(login) = &bundle.registry {
        add(login.password.expose().as_bytes());
    }
    for content in bundle.keystore.values() {
        add(content.expose());
        let text = String::from_utf8_lossy(content.expose());
        for list in text.split(['[', ']']).filter(|list| list.contains(',')) {
            // A key as a list of its bytes.
            let bytes: Option<Vec<u8>> = list.split(',').map(|number| number.trim().parse().ok()).collect();
            if let Some(bytes) = bytes {
                add(&bytes);
            }
        }
        // What stands between two quotes may be quoted or not: an apostrophe in a text turns that.
        for quote in ['"', '\''] {
            text.split(quote).skip(1).for_each(|quoted| add(quoted.as_bytes()));
        }
    }
    all
}

/// What of a URL may be a secret, as it is written and as it is meant.
fn parts(url: &str) -> Vec<Vec<u8>> {
    let Some((_, rest)) = url.split_once("://") else { return Vec::new() };
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let mut path = rest.split('/');
    let authority = path.next().unwrap_or_default();
    let mut parts: Vec<&str> = path.filter(|segment| segment.len() >= PATH_KEY).collect();
    if let Some((user, _)) = authority.rsplit_once('@') {
        parts.push(user.split_once(':').map_or(user, |(_, password)| password));
    }
    parts.extend(query.split('&').map(|field| field.split_once('=').map_or(field, |(_, value)| value)));
    parts.into_iter().flat_map(|part| [part.as_bytes().to_vec(), decoded(part)]).collect()
}

/// With the bytes that a `%` and two digits stand for.
fn decoded(part: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let [first, behind @ ..] = rest {
        let digits = behind.first_chunk::<2>().filter(|_| *first == b'%');
        let digits = digits.filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let byte = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        match byte.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = behind.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = behind;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use blueprint_common_types::workload::Source;

    use super::*;

    #[test]
    fn what_an_operator_gives_is_secret_and_what_everybody_knows_is_not() {
        let mut spec = WorkloadSpec::new(Source::Testing { path: "/bin/b".to_owned() });
        spec.env =
            [("TOKEN", "canary-1"), ("RUST_LOG", "debug,x=trace"), ("DB", "pg://u:can%40ry-2%zz%@h/db")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into();
        spec.chain.http_rpc_url = "https://rpc.example.org/v2/0123456789abcdef?key=canary-3".to_owned();
        let mut bundle = Bundle::default();
        bundle.add("Ecdsa/ab12", Secret::new(b"[[1,2,3,4,5,6],\"it's\",\"canary-4\"]".to_vec())).unwrap();
        let all = secrets(&spec, &bundle);
        let has = |text: &[u8]| all.iter().any(|secret| secret.expose() == text);
        for text in ["canary-1", "can%40ry-2%zz%", "can@ry-2%zz%", "canary-3", "canary-4", "0123456789abcdef"]
        {
            assert!(has(text.as_bytes()), "{text}");
        }
        assert!(has(&[1, 2, 3, 4, 5, 6]));
        assert!(!has(b"debug,x=trace") && !has(b"rpc.example.org"));
    }
}
