//! The token endpoint: keys of service accounts are changed for tokens (RFC 7523).

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use serde_json::{Value, json};

use crate::server::{Answer, Request};

/// Whose keys are known.
#[derive(Debug, Default)]
pub(super) struct Keys {
    known: BTreeMap<String, Vec<u8>>,
    given: usize,
}

impl Keys {
    pub(super) fn trust(&mut self, email: &str, public_key: Vec<u8>) {
        self.known.insert(email.to_owned(), public_key);
    }

    pub(super) const fn given(&self) -> usize {
        self.given
    }

    pub(super) fn grant(&mut self, request: &Request, token: &str) -> Answer {
        match self.check(request) {
            Ok(()) => {
                self.given += 1;
                Answer::json(
                    200,
                    &json!({ "access_token": token, "expires_in": 3599, "token_type": "Bearer" }),
                )
            }
            Err(why) => Answer::json(400, &json!({ "error": "invalid_grant", "error_description": why })),
        }
    }

    fn check(&self, request: &Request) -> Result<(), String> {
        let form: BTreeMap<String, String> = serde_urlencoded::from_bytes(&request.body).unwrap_or_default();
        if form.get("grant_type").map(String::as_str) != Some("urn:ietf:params:oauth:grant-type:jwt-bearer") {
            return Err("Unsupported grant".to_owned());
        }
        let assertion = form.get("assertion").map(String::as_str).unwrap_or_default();
        let (signed, signature) = assertion.rsplit_once('.').ok_or("Malformed assertion")?;
        let (head, claims) = signed.split_once('.').ok_or("Malformed assertion")?;
        let read = |part: &str| -> Value {
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap_or_default()).unwrap_or_default()
        };
        let (head, claims) = (read(head), read(claims));
        if head["alg"] != "RS256" || head["typ"] != "JWT" {
            return Err("Invalid JWT: its algorithm is not RS256".to_owned());
        }
        if claims["aud"] != "https://oauth2.googleapis.com/token" {
            return Err("Invalid JWT: its audience is wrong".to_owned());
        }
        if !claims["scope"]
            .as_str()
            .is_some_and(|scope| scope.starts_with("https://www.googleapis.com/auth/"))
        {
            return Err("Empty or missing scope not allowed.".to_owned());
        }
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let (issued, ends) = (claims["iat"].as_u64().unwrap_or(0), claims["exp"].as_u64().unwrap_or(0));
        if issued.abs_diff(now) > 300 || ends <= now || ends - issued > 3600 {
            return Err("Invalid JWT: Token must be a short-lived token (60 minutes)".to_owned());
        }
        let email = claims["iss"].as_str().unwrap_or_default();
        let key = self.known.get(email).ok_or("Invalid grant: account not found")?;
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap_or_default();
        UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key)
            .verify(signed.as_bytes(), &signature)
            .map_err(|_| "Invalid JWT Signature.".to_owned())
    }
}
