//! Where the URL of an artefact leads: to servers, or to the hub.

use url::Url;

use super::{ArtefactError, OpenError};

/// Where the releases of `github://` are.
const GITHUB: &str = "https://github.com";

/// Whom to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Location {
    /// One server.
    Server(Url),
    /// Gateways, in turn.
    Gateways {
        /// What is asked for, for people.
        cid: String,
        urls: Vec<Url>,
    },
    /// The hub.
    Hub,
}

/// Reads the URL of an artefact.
pub(super) fn locate(url: &str, gateways: &[Url]) -> Result<Location, ArtefactError> {
    let wrong = |why| ArtefactError::Url { url: shown(url), why };
    let (scheme, rest) = url.split_once("://").ok_or_else(|| wrong("it has no scheme, such as https://"))?;
    match scheme {
        "http" | "https" => Ok(Location::Server(server(url).map_err(wrong)?)),
        "hub" if rest.is_empty() => Ok(Location::Hub),
        "github" => {
            let form = "github:// is followed by OWNER/REPOSITORY/TAG/FILE";
            let [owner, repository, tag, file] = parts(rest).ok_or_else(|| wrong(form))?[..] else {
                return Err(wrong(form));
            };
            let below = below(GITHUB, &[owner, repository, "releases", "download", tag, file]);
            Ok(Location::Server(below.ok_or_else(|| wrong(form))?))
        }
        "ipfs" => {
            let form = "ipfs:// is followed by CID/PATH";
            let inner = parts(rest).ok_or_else(|| wrong(form))?;
            let path: Vec<&str> = std::iter::once("ipfs").chain(inner).collect();
            let urls: Vec<Url> = gateways.iter().filter_map(|url| below(url.as_str(), &path)).collect();
            Ok(Location::Gateways { cid: rest.chars().take(120).collect(), urls })
        }
        _ => Err(wrong("its scheme is none of https, http, ipfs, github and hub")),
    }
}

/// Reads the gateways of the configuration.
pub(super) fn gateways(texts: &[String]) -> Result<Vec<Url>, OpenError> {
    let gateway = |text: &String| server(text).map_err(|_| OpenError::Gateway(text.clone()));
    texts.iter().map(gateway).collect()
}

/// The URL of a server that may be asked.
pub(super) fn server(url: &str) -> Result<Url, &'static str> {
    let url = Url::parse(url).map_err(|_| "it is no URL")?;
    fit(&url)?;
    Ok(url)
}

/// Whether a server may be asked by this URL.
pub(super) fn fit(url: &Url) -> Result<(), &'static str> {
    if !matches!(url.scheme(), "http" | "https") {
        return Err("only https:// and http:// are fetched");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(
            "it holds a user or password, and none is ever sent; push the file through the hub instead",
        );
    }
    Ok(())
}

/// The parts of a path, none of them empty or a step up.
fn parts(path: &str) -> Option<Vec<&str>> {
    let parts: Vec<&str> = path.split('/').collect();
    let is_fine = |part: &&str| !part.is_empty() && *part != "." && *part != "..";
    parts.iter().all(is_fine).then_some(parts)
}

fn below(base: &str, parts: &[&str]) -> Option<Url> {
    let mut url = Url::parse(base).ok()?;
    url.path_segments_mut().ok()?.pop_if_empty().extend(parts);
    Some(url)
}

/// A URL for people: without user, password, query and fragment, and not too long.
pub(super) fn shown(url: &str) -> String {
    let text = match Url::parse(url) {
        Ok(mut url) => {
            url.set_query(None);
            url.set_fragment(None);
            // Fails only for URLs that cannot have them.
            let _ = url.set_username("");
            let _ = url.set_password(None);
            url.to_string()
        }
        Err(_) => url.split(['?', '#']).next().unwrap_or_default().to_owned(),
    };
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(url: &str) -> Result<Location, String> {
        let gateways = gateways(&["https://a.example/".to_owned(), "http://b.example:8080/x".to_owned()]);
        locate(url, &gateways.unwrap()).map_err(|error| error.to_string())
    }

    fn urls(location: Location) -> Vec<String> {
        match location {
            Location::Server(url) => vec![url.to_string()],
            Location::Gateways { urls, .. } => urls.iter().map(Url::to_string).collect(),
            Location::Hub => vec!["hub".to_owned()],
        }
    }

    #[test]
    fn each_scheme_leads_somewhere() {
        for (url, expected) in [
            ("https://x.example/a?b=c", &["https://x.example/a?b=c"][..]),
            ("http://[::1]:80/a", &["http://[::1]/a"]),
            ("hub://", &["hub"]),
            (
                "github://owner/repo/v1.0+x/file name?.tgz",
                &["https://github.com/owner/repo/releases/download/v1.0+x/file%20name%3F.tgz"],
            ),
            ("ipfs://Qm1/a/b", &["https://a.example/ipfs/Qm1/a/b", "http://b.example:8080/x/ipfs/Qm1/a/b"]),
            ("ipfs://Qm1", &["https://a.example/ipfs/Qm1", "http://b.example:8080/x/ipfs/Qm1"]),
        ] {
            assert_eq!(urls(at(url).unwrap()), expected, "{url}");
        }
    }

    #[test]
    fn what_leads_nowhere_says_why() {
        for (url, why) in [
            ("x.example/a", "it has no scheme"),
            ("ftp://x.example/a", "its scheme is none of"),
            ("https://", "it is no URL"),
            ("hub://x", "its scheme is none of"),
            ("github://owner/repo/file", "OWNER/REPOSITORY/TAG/FILE"),
            ("github://owner/repo/../file", "OWNER/REPOSITORY/TAG/FILE"),
            ("ipfs://Qm1/../../secret", "CID/PATH"),
            ("ipfs://", "CID/PATH"),
            ("https://user:password@x.example/a", "push the file through the hub"),
        ] {
            let error = at(url).unwrap_err();
            assert!(error.contains(why), "{url}: {error}");
            assert!(!error.contains("password@"), "{error}");
        }
    }

    #[test]
    fn what_may_be_secret_is_not_shown() {
        assert_eq!(shown("https://u:p@x.example/a?token=secret#f"), "https://x.example/a");
        assert_eq!(shown("no url?token=secret"), "no url");
    }
}
