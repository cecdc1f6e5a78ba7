//! Forged headers: name of the case, field lines with `{mark}` where the lie is, outcome.

use crate::case::Case;
use crate::case::Outcome::{self, Refused, Served};

/// What is told under a name of ours is left out, and the request goes on.
const LEFT_OUT: Outcome = Served("abcd");

/// Added to a request that is good without them.
#[rustfmt::skip]
pub(crate) const FIELDS: &[(&str, &[u8], Outcome)] = &[
    // One name in every spelling that a server might take for it.
    ("as it is", b"x-tenant-id: {mark}\r\n", LEFT_OUT),
    ("usual case", b"X-Tenant-Id: {mark}\r\n", LEFT_OUT),
    ("upper case", b"X-TENANT-ID: {mark}\r\n", LEFT_OUT),
    ("mixed case", b"x-TeNaNt-iD: {mark}\r\n", LEFT_OUT),
    ("underscores", b"x_tenant_id: {mark}\r\n", LEFT_OUT),
    ("one underscore", b"X-Tenant_Id: {mark}\r\n", LEFT_OUT),
    ("the other underscore", b"X_TENANT-ID: {mark}\r\n", LEFT_OUT),
    ("dots", b"x.tenant.id: {mark}\r\n", LEFT_OUT),
    ("exclamation marks", b"x!tenant!id: {mark}\r\n", LEFT_OUT),
    ("tildes and quotes", b"x~tenant'id: {mark}\r\n", LEFT_OUT),
    ("as a CGI variable", b"HTTP_X_TENANT_ID: {mark}\r\n", LEFT_OUT),
    ("escaped hyphens", b"X%2DTenant%2DId: {mark}\r\n", LEFT_OUT),
    ("twice", b"X-Tenant-Id: a\r\nX-Tenant-Id: {mark}\r\n", LEFT_OUT),
    ("twice in two spellings", b"X-Tenant-Id: {mark}\r\nX_Tenant_Id: {mark}\r\n", LEFT_OUT),
    ("first empty", b"X-Tenant-Id:\r\nX-Tenant-Id: {mark}\r\n", LEFT_OUT),
    ("blanks around the value", b"X-Tenant-Id:    {mark}   \r\n", LEFT_OUT),
    ("no blank", b"X-Tenant-Id:{mark}\r\n", LEFT_OUT),
    ("tabs around the value", b"X-Tenant-Id:\t{mark}\t\r\n", LEFT_OUT),
    ("with latin-1", b"X-Tenant-Id: \xe9 {mark}\r\n", LEFT_OUT),
    // Names that are not names.
    ("blank before the colon", b"X-Tenant-Id : {mark}\r\n", Refused(400)),
    ("tab before the colon", b"X-Tenant-Id\t: {mark}\r\n", Refused(400)),
    ("blank before the name", b" X-Tenant-Id: {mark}\r\n", Refused(400)),
    ("tab before the name", b"\tX-Tenant-Id: {mark}\r\n", Refused(400)),
    ("blank in the name", b"X Tenant Id: {mark}\r\n", Refused(400)),
    ("colon before the name", b":X-Tenant-Id: {mark}\r\n", Refused(400)),
    ("quoted name", b"\"X-Tenant-Id\": {mark}\r\n", Refused(400)),
    ("semicolon behind the name", b"X-Tenant-Id;: {mark}\r\n", Refused(400)),
    ("no name", b": {mark}\r\n", Refused(400)),
    ("no colon", b"X-Tenant-Id {mark}\r\n", Refused(400)),
    ("Unicode hyphen", b"X\xe2\x80\x90Tenant\xe2\x80\x90Id: {mark}\r\n", Refused(400)),
    ("soft hyphen", b"X-Ten\xc2\xadant-Id: {mark}\r\n", Refused(400)),
    ("zero-width space", b"X-Tenant-Id\xe2\x80\x8b: {mark}\r\n", Refused(400)),
    ("no-break space", b"X-Tenant-Id\xc2\xa0: {mark}\r\n", Refused(400)),
    ("byte order mark", b"\xef\xbb\xbfX-Tenant-Id: {mark}\r\n", Refused(400)),
    ("full-width letters", b"\xef\xbc\xb8-Tenant-Id: {mark}\r\n", Refused(400)),
    ("long s, whose capital is S", b"X-\xc5\xbfcopes: {mark}\r\n", Refused(400)),
    ("dotless i, whose capital is I", b"X-Tenant-\xc4\xb1d: {mark}\r\n", Refused(400)),
    ("overlong hyphen", b"X\xc0\xadTenant-Id: {mark}\r\n", Refused(400)),
    ("NUL in the name", b"X-Tenant-Id\0: {mark}\r\n", Refused(400)),
    ("NUL before the name", b"\0X-Tenant-Id: {mark}\r\n", Refused(400)),
    // Lines that another server might cut elsewhere.
    ("folded behind another", b"X-A: b\r\n X-Tenant-Id: {mark}\r\n", Refused(400)),
    ("folded with a tab", b"X-A: b\r\n\tX-Tenant-Id: {mark}\r\n", Refused(400)),
    ("folded value", b"X-Tenant-Id:\r\n {mark}\r\n", Refused(400)),
    ("behind a line feed", b"X-A: b\nX-Tenant-Id: {mark}\r\n", Refused(400)),
    ("behind a carriage return", b"X-A: b\rX-Tenant-Id: {mark}\r\n", Refused(400)),
    ("behind two carriage returns", b"X-A: b\r\r\nX-Tenant-Id: {mark}\r\n", Refused(400)),
    ("behind NUL", b"X-A: b\0X-Tenant-Id: {mark}\r\n", Refused(400)),
    ("behind a vertical tab", b"X-A: b\x0bX-Tenant-Id: {mark}\r\n", Refused(400)),
    ("behind a form feed", b"X-A: b\x0cX-Tenant-Id: {mark}\r\n", Refused(400)),
    ("behind a Latin-1 next line", b"X-A: b\x85X-Tenant-Id: {mark}\r\n", LEFT_OUT),
    ("behind a Unicode line separator", b"X-A: b\xe2\x80\xa8X-Tenant-Id: {mark}\r\n", LEFT_OUT),
    // Every other name.
    ("tenant name", b"X-Tenant-Name: {mark}\r\nx_tenant_name: {mark}\r\n", LEFT_OUT),
    ("anything of a tenant", b"X-Tenant: {mark}\r\nX-Tenant-Admin: {mark}\r\nX_Tenant_X: {mark}\r\n", LEFT_OUT),
    ("scopes", b"X-Scopes: admin {mark}\r\nx_scopes: {mark}\r\nX-Scope: {mark}\r\n", LEFT_OUT),
    ("client certificate", b"X-Client-Cert: {mark}\r\nX_Client_Cert: {mark}\r\n", LEFT_OUT),
    ("its subject", b"X-Client-Cert-Subject: CN={mark}\r\nx_client_cert_subject: {mark}\r\n", LEFT_OUT),
    ("its issuer", b"X-Client-Cert-Issuer: CN={mark}\r\nx.client.cert.issuer: {mark}\r\n", LEFT_OUT),
    ("its serial number", b"X-Client-Cert-Serial: {mark}\r\nX-Client_Cert-Serial: {mark}\r\n", LEFT_OUT),
    ("anything of it", b"X-Client-Cert-Verified: {mark}\r\nX-Client-Certificate: {mark}\r\n", LEFT_OUT),
    ("method of authentication", b"X-Auth-Method: {mark}\r\nx_auth_method: {mark}\r\n", LEFT_OUT),
    ("anything of it", b"X-Auth: {mark}\r\nX-Auth-User: {mark}\r\nX_Auth_Request: {mark}\r\n", LEFT_OUT),
    ("signed statement", b"X-Blueprint-Identity: {mark}\r\nx_blueprint_identity: {mark}\r\n", LEFT_OUT),
    ("forwarded for", b"X-Forwarded-For: {mark}\r\nx_forwarded_for: {mark}\r\n", LEFT_OUT),
    ("forwarded proto, host", b"X-Forwarded-Proto: {mark}\r\nX-Forwarded-Host: {mark}\r\n", LEFT_OUT),
    ("anything forwarded", b"X-Forwarded-User: {mark}\r\nX-Forwarded: {mark}\r\n", LEFT_OUT),
    ("the standard's", b"Forwarded: for={mark};host={mark}\r\nforwarded: by={mark}\r\n", LEFT_OUT),
    ("addresses", b"X-Real-Ip: {mark}\r\nx_real_ip: {mark}\r\nTrue-Client-Ip: {mark}\r\n", LEFT_OUT),
    ("users of other proxies", b"Remote-User: {mark}\r\nX-Remote-User: {mark}\r\nREMOTE_USER: {mark}\r\n", LEFT_OUT),
    ("what owners bind", b"X-User-Id: {mark}\r\nX-User-Email: {mark}\r\nx_customer_email: {mark}\r\n", LEFT_OUT),
    ("proxies", b"Proxy: {mark}\r\nProxy-Authorization: {mark}\r\nProxy_Authenticate: {mark}\r\n", LEFT_OUT),
    ("another path", b"X-Original-Url: /{mark}\r\nX-Rewrite-Url: /{mark}\r\nX_Original_Uri: {mark}\r\n", LEFT_OUT),
    ("another method", b"X-HTTP-Method-Override: {mark}\r\nx_http_method: {mark}\r\nX-Method-Override: {mark}\r\n", LEFT_OUT),
    ("another host", b"X-Original-Host: {mark}\r\nX-Host: a\r\n", LEFT_OUT),
    ("another service id", b"X_Service_Id: {mark}\r\nx.service.id: {mark}\r\n", LEFT_OUT),
    // Places that could overrule.
    ("a second credential", b"Authorization: Bearer {mark}\r\n", Refused(400)),
    ("a credential in disguise", b"Authorization_: {mark}\r\nHTTP-Authorization: {mark}\r\n", LEFT_OUT),
    ("Connection names ours", b"Connection: x-tenant-id, X-Auth-Method, x_tenant_name\r\n", LEFT_OUT),
    ("Connection names them one by one", b"Connection: x-tenant-id\r\nConnection: x-auth-method\r\n", LEFT_OUT),
    ("Connection names what frames", b"Connection: content-length, transfer-encoding, host\r\n", LEFT_OUT),
    ("Connection names the statement", b"Connection: x-blueprint-identity, authorization\r\n", LEFT_OUT),
    ("Connection names a forged one", b"Connection: x-a\r\nX-A: b\r\nX-Tenant-Id: {mark}\r\n", LEFT_OUT),
    ("another that Connection carries", b"Connection: keep-alive, {mark}\r\nKeep-Alive: {mark}\r\n", LEFT_OUT),
    ("service id twice", b"X-Service-Id: 7/42\r\n", Refused(400)),
    ("service id in two spellings", b"x-service-id: {mark}\r\n", Refused(400)),
    ("announced trailers", b"Trailer: X-Tenant-Id\r\nTE: trailers\r\n", LEFT_OUT),
];

/// Where more than a field line is needed.
pub(crate) const WHOLE: &[Case<'static>] = &[
    Case {
        name: "in a trailer",
        bytes: b"POST /{n} HTTP/1.1\r\n{auth}Transfer-Encoding: chunked\r\n\r\n\
            4\r\nabcd\r\n0\r\nX-Tenant-Id: {mark}\r\n\r\n",
        outcome: Served("abcd"),
    },
    Case {
        name: "in a trailer that is announced",
        bytes: b"POST /{n} HTTP/1.1\r\n{auth}TE: trailers\r\nTrailer: X-Tenant-Id\r\nTransfer-Encoding: chunked\r\n\r\n\
            4\r\nabcd\r\n0\r\nX-Tenant-Id: {mark}\r\nx_scopes: {mark}\r\n\r\n",
        outcome: Served("abcd"),
    },
    Case {
        name: "framing and credentials in a trailer",
        bytes: b"POST /{n} HTTP/1.1\r\n{auth}Transfer-Encoding: chunked\r\n\r\n\
            4\r\nabcd\r\n0\r\nContent-Length: 1\r\nHost: {mark}\r\nAuthorization: {mark}\r\nForwarded: {mark}\r\n\r\n",
        outcome: Served("abcd"),
    },
    Case {
        name: "folded in a trailer",
        bytes: b"POST /{n} HTTP/1.1\r\n{auth}Transfer-Encoding: chunked\r\n\r\n\
            4\r\nabcd\r\n0\r\nX-A: b\r\n X-Tenant-Id: {mark}\r\n\r\n",
        outcome: Outcome::Broken,
    },
    Case {
        name: "as a user in the target",
        bytes: b"GET http://{mark}@hub/{n} HTTP/1.1\r\n{auth}\r\n",
        outcome: Refused(400),
    },
    Case {
        name: "as a user in the host",
        bytes: b"GET http://hub/{n} HTTP/1.1\r\nHost: {mark}@hub\r\n\r\n",
        outcome: Refused(400),
    },
    Case {
        name: "before the request line",
        bytes: b"X-Tenant-Id: {mark}\r\nGET /{n} HTTP/1.1\r\n{auth}\r\n",
        outcome: Refused(400),
    },
    Case {
        name: "in the request line",
        bytes: b"GET /{n} HTTP/1.1\nX-Tenant-Id: {mark}\r\n{auth}\r\n",
        outcome: Refused(400),
    },
    Case {
        name: "in the query, escaped",
        bytes: b"GET /{n}?a=%0d%0aX-Tenant-Id:%20{mark} HTTP/1.1\r\n{auth}\r\n",
        outcome: Served(""),
    },
    Case {
        name: "in the path, escaped",
        bytes: b"GET /{n}%0d%0aX-Tenant-Id:%20{mark} HTTP/1.1\r\n{auth}\r\n",
        outcome: Refused(400),
    },
    Case {
        name: "over HTTP/1.0",
        bytes: b"GET /{n} HTTP/1.0\r\n{auth}Connection: X-Tenant-Id\r\nX_Tenant_Id: {mark}\r\n\r\n",
        outcome: Outcome::Last(""),
    },
];
