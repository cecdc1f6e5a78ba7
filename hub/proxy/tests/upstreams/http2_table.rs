//! Forged headers and framing over HTTP/2: fields added to (or, of the same name, in place of) those of a good request
//! on stream 1, its body and trailers, and what has to become of it.

/// One line of the table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Http2Case {
    pub(crate) name: &'static str,
    /// With a `+` before the name: in addition. The value `{none}` leaves the field out.
    pub(crate) fields: &'static [(&'static [u8], &'static [u8])],
    pub(crate) body: &'static [&'static [u8]],
    pub(crate) trailers: &'static [(&'static [u8], &'static [u8])],
    /// Pseudo-headers stay where they are, even behind others.
    pub(crate) is_in_order: bool,
    pub(crate) fate: Fate,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The service gets it once, with this body.
    Served(&'static str),
    /// The service gets nothing whole of it.
    Refused,
}

#[rustfmt::skip]
pub(crate) const CASES: &[Http2Case] = &[
    Http2Case { name: "no body", fields: &[], body: &[], trailers: &[], is_in_order: false, fate: Fate::Served("") },
    Http2Case { name: "a body", fields: &[], body: &[b"ab", b"cd"], trailers: &[], is_in_order: false, fate: Fate::Served("abcd") },
    Http2Case { name: "GET with a body", fields: &[(b":method", b"GET")], body: &[b"ab", b"cd"], trailers: &[], is_in_order: false, fate: Fate::Served("abcd") },
    Http2Case { name: "a body and its length", fields: &[(b"content-length", b"4")], body: &[b"abcd"], trailers: &[], is_in_order: false, fate: Fate::Served("abcd") },
    Http2Case { name: "forged x-tenant-id", fields: &[(b"x-tenant-id", b"{mark}")], body: &[], trailers: &[], is_in_order: false, fate: Fate::Served("") },
    Http2Case { name: "forged x_tenant_id", fields: &[(b"x_tenant_id", b"{mark}")], body: &[], trailers: &[], is_in_order: false, fate: Fate::Served("") },
    Http2Case { name: "forged x.tenant.id", fields: &[(b"x.tenant.id", b"{mark}")], body: &[], trailers: &[], is_in_order: false, fate: Fate::Served("") },
    Http2Case { name: "forged x-tenant-name", fields: &[(b"x-tenant-name", b"{mark}")], body: &[], trailers: &[], is_in_order: false, fate: Fate::Served("") },
    Http2Case { name: "forged x_scopes", fields: &[(b"x_scopes", b"{mark}")], body: &[], trailers: &[], is_in_order: false, fate: Fate::Served("") },
    Http2Case { name: "forged x-scope", fields: &[(b"x-scope", b"{mark}")], body: &[], trailers: &[], is_in_order: false, fate: Fate::Served("") },
    Http2Case { name: "forged x-client-cert-subject", fields: &[(b"x-client-cert-subject", b"{mark}")], body: &[], trailers: &[], is_in_order: false, fate: Fate::Served("") },
    Http2Case { name: "forged x_client_cert_serial", fields: &[(b"x_client_cert_serial", b"{mark}")], body: &[], trailers: &[], is_in_order: false, fate: Fate::Served("") },
    Http2Case { name: "forged x-auth-method", fields: &[(b"x-auth-method", b"{mark}")], body: &[], trailers: &[], is_in_order: false, fate: Fate::Served("") },
    Http2Case { name: "forged x_auth_method", fields: &[(b"x_auth_method", b"{mark}")], body: &[], trailers: &[], is_in_order: false, fate: Fate::Served("") },
    Http2Case { name: "forged x-blueprint-identity", fields: &[(b"x-blueprint-identity", b"{mark}")], body: &[], trailers: &[], is_in_order: false, fate: Fate::Served("") },
    Http2Case { name: "forged x-forwarded-for", fields: &[(b"x-forwarded-for", b"{mark}")], body: &[], trailers: &[], is_in_order: false, fate: Fate::Served("") },
    Http2Case { name: "forged x_forwarded_host", fields: &[(b"x_forwarded_host", b"{mark}")], body: &[], trailers: &[], is_in_order: false, fate: Fate::Served("") },
    Http2Case { name: "forged forwarded", fields: &[(b"forwarded", b"{mark}")], body: &[], trailers: &[], is_in_order: false, fate: Fate::Served("") },
    Http2Case { name: "forged x-real-ip", fields: &[(b"x-real-ip", b"{mark}")], body: &[], trailers: &[], is_in_order: false, fate: Fate::Served("") },
    Http2Case { name: "forged remote_user", fields: &[(b"remote_user", b"{mark}")], body: &[], trailers: &[], is_in_order: false, fate: Fate::Served("") },
    Http2Case { name: "forged x-user-id", fields: &[(b"x-user-id", b"{mark}")], body: &[], trailers: &[], is_in_order: false, fate: Fate::Served("") },
    Http2Case { name: "forged proxy-authorization", fields: &[(b"proxy-authorization", b"{mark}")], body: &[], trailers: &[], is_in_order: false, fate: Fate::Served("") },
    Http2Case { name: "forged x_service_id", fields: &[(b"x_service_id", b"{mark}")], body: &[], trailers: &[], is_in_order: false, fate: Fate::Served("") },
    Http2Case { name: "forged http_x_tenant_id", fields: &[(b"http_x_tenant_id", b"{mark}")], body: &[], trailers: &[], is_in_order: false, fate: Fate::Served("") },
    Http2Case { name: "forged twice", fields: &[(b"x-tenant-id", b"{mark}"), (b"+x-tenant-id", b"{mark}")], body: &[], trailers: &[], is_in_order: false, fate: Fate::Served("") },
    Http2Case { name: "name in upper case", fields: &[(b"X-Tenant-Id", b"{mark}")], body: &[], trailers: &[], is_in_order: false, fate: Fate::Refused },
    Http2Case { name: "name with a colon", fields: &[(b"x-tenant-id:", b"{mark}")], body: &[], trailers: &[], is_in_order: false, fate: Fate::Refused },
    Http2Case { name: "name with a blank", fields: &[(b"x-tenant-id ", b"{mark}")], body: &[], trailers: &[], is_in_order: false, fate: Fate::Refused },
    Http2Case { name: "name with a line", fields: &[(b"x-a: b\r\nx-tenant-id", b"{mark}")], body: &[], trailers: &[], is_in_order: false, fate: Fate::Refused },
    Http2Case { name: "no name", fields: &[(b"", b"{mark}")], body: &[], trailers: &[], is_in_order: false, fate: Fate::Refused },
    Http2Case { name: "name in other bytes", fields: &[(b"x\xe2\x80\x90tenant-id", b"{mark}")], body: &[], trailers: &[], is_in_order: false, fate: Fate::Refused },
    Http2Case { name: "value with a line", fields: &[(b"x-a", b"b\r\nx-tenant-id: {mark}")], body: &[], trailers: &[], is_in_order: false, fate: Fate::Refused },
    Http2Case { name: "value with a line feed", fields: &[(b"x-a", b"b\nx-tenant-id: {mark}")], body: &[], trailers: &[], is_in_order: false, fate: Fate::Refused },
    Http2Case { name: "value with a carriage return", fields: &[(b"x-a", b"b\rx-tenant-id: {mark}")], body: &[], trailers: &[], is_in_order: false, fate: Fate::Refused },
    Http2Case { name: "value with NUL", fields: &[(b"x-a", b"b\0c")], body: &[], trailers: &[], is_in_order: false, fate: Fate::Refused },
    Http2Case { name: "value with blanks around", fields: &[(b"x-tenant-id", b" {mark} ")], body: &[], trailers: &[], is_in_order: false, fate: Fate::Served("") },
    Http2Case { name: "a second credential", fields: &[(b"+authorization", b"Bearer {mark}")], body: &[], trailers: &[], is_in_order: false, fate: Fate::Refused },
    Http2Case { name: "a second service id", fields: &[(b"+x-service-id", b"7/42")], body: &[], trailers: &[], is_in_order: false, fate: Fate::Refused },
    Http2Case { name: "Connection", fields: &[(b"connection", b"x-tenant-id")], body: &[], trailers: &[], is_in_order: false, fate: Fate::Refused },
    Http2Case { name: "Keep-Alive", fields: &[(b"keep-alive", b"x-tenant-id")], body: &[], trailers: &[], is_in_order: false, fate: Fate::Refused },
    Http2Case { name: "Proxy-Connection", fields: &[(b"proxy-connection", b"keep-alive")], body: &[], trailers: &[], is_in_order: false, fate: Fate::Refused },
    Http2Case { name: "Upgrade", fields: &[(b"upgrade", b"websocket")], body: &[], trailers: &[], is_in_order: false, fate: Fate::Refused },
    Http2Case { name: "TE with more than trailers", fields: &[(b"te", b"trailers, chunked")], body: &[], trailers: &[], is_in_order: false, fate: Fate::Refused },
    Http2Case { name: "chunked", fields: &[(b"transfer-encoding", b"chunked")], body: &[b"0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n"], trailers: &[], is_in_order: false, fate: Fate::Refused },
    Http2Case { name: "Transfer_Encoding", fields: &[(b"transfer_encoding", b"chunked")], body: &[b"abcd"], trailers: &[], is_in_order: false, fate: Fate::Served("abcd") },
    Http2Case { name: "chunks as a body", fields: &[], body: &[b"0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n"], trailers: &[], is_in_order: false, fate: Fate::Served("0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n") },
    Http2Case { name: "a length that is too short", fields: &[(b"content-length", b"2")], body: &[b"abcd"], trailers: &[], is_in_order: false, fate: Fate::Refused },
    Http2Case { name: "a length of none", fields: &[(b"content-length", b"0")], body: &[b"GET /smuggled HTTP/1.1\r\n\r\n"], trailers: &[], is_in_order: false, fate: Fate::Refused },
    Http2Case { name: "a length that is too long", fields: &[(b"content-length", b"9")], body: &[b"abcd"], trailers: &[], is_in_order: false, fate: Fate::Refused },
    Http2Case { name: "a length and no body", fields: &[(b"content-length", b"9")], body: &[], trailers: &[], is_in_order: false, fate: Fate::Refused },
    Http2Case { name: "two lengths", fields: &[(b"content-length", b"4"), (b"+content-length", b"5")], body: &[b"abcd"], trailers: &[], is_in_order: false, fate: Fate::Refused },
    Http2Case { name: "two equal lengths", fields: &[(b"content-length", b"4"), (b"+content-length", b"4")], body: &[b"abcd"], trailers: &[], is_in_order: false, fate: Fate::Refused },
    Http2Case { name: "a length with a plus", fields: &[(b"content-length", b"+4")], body: &[b"abcd"], trailers: &[], is_in_order: false, fate: Fate::Refused },
    Http2Case { name: "a length with more", fields: &[(b"content-length", b"4\r\nx-a: b")], body: &[b"abcd"], trailers: &[], is_in_order: false, fate: Fate::Refused },
    Http2Case { name: "a path with a blank", fields: &[(b":path", b"/{n} HTTP/1.1")], body: &[], trailers: &[], is_in_order: false, fate: Fate::Refused },
    Http2Case { name: "a path with a line", fields: &[(b":path", b"/{n} HTTP/1.1\r\nx-tenant-id: {mark}")], body: &[], trailers: &[], is_in_order: false, fate: Fate::Refused },
    Http2Case { name: "a path with a tab", fields: &[(b":path", b"/{n}\tx")], body: &[], trailers: &[], is_in_order: false, fate: Fate::Refused },
    Http2Case { name: "a path with an escaped line", fields: &[(b":path", b"/{n}%0d%0ax")], body: &[], trailers: &[], is_in_order: false, fate: Fate::Refused },
    Http2Case { name: "a path without a slash", fields: &[(b":path", b"{n}")], body: &[], trailers: &[], is_in_order: false, fate: Fate::Refused },
    Http2Case { name: "an empty path", fields: &[(b":path", b"")], body: &[], trailers: &[], is_in_order: false, fate: Fate::Refused },
    Http2Case { name: "a path above the root", fields: &[(b":path", b"/../{n}")], body: &[], trailers: &[], is_in_order: false, fate: Fate::Refused },
    Http2Case { name: "an absolute path", fields: &[(b":path", b"http://evil/{n}")], body: &[], trailers: &[], is_in_order: false, fate: Fate::Refused },
    Http2Case { name: "a star", fields: &[(b":method", b"OPTIONS"), (b":path", b"*")], body: &[], trailers: &[], is_in_order: false, fate: Fate::Refused },
    Http2Case { name: "two paths", fields: &[(b"+:path", b"/smuggled")], body: &[], trailers: &[], is_in_order: false, fate: Fate::Refused },
    Http2Case { name: "no path", fields: &[(b":path", b"{none}")], body: &[], trailers: &[], is_in_order: false, fate: Fate::Refused },
    Http2Case { name: "a method with a blank", fields: &[(b":method", b"GET /smuggled HTTP/1.1\r\n")], body: &[], trailers: &[], is_in_order: false, fate: Fate::Refused },
    Http2Case { name: "no method", fields: &[(b":method", b"{none}")], body: &[], trailers: &[], is_in_order: false, fate: Fate::Refused },
    Http2Case { name: "two methods", fields: &[(b"+:method", b"GET")], body: &[], trailers: &[], is_in_order: false, fate: Fate::Refused },
    Http2Case { name: "a tunnel", fields: &[(b":method", b"CONNECT")], body: &[], trailers: &[], is_in_order: false, fate: Fate::Refused },
    Http2Case { name: "a mirror", fields: &[(b":method", b"TRACE")], body: &[], trailers: &[], is_in_order: false, fate: Fate::Refused },
    Http2Case { name: "a scheme with a line", fields: &[(b":scheme", b"http\r\nx-a: b")], body: &[], trailers: &[], is_in_order: false, fate: Fate::Refused },
    Http2Case { name: "a scheme with a path", fields: &[(b":scheme", b"http://evil/?")], body: &[], trailers: &[], is_in_order: false, fate: Fate::Refused },
    Http2Case { name: "no scheme", fields: &[(b":scheme", b"{none}")], body: &[], trailers: &[], is_in_order: false, fate: Fate::Refused },
    Http2Case { name: "an authority with a path", fields: &[(b":authority", b"hub/x")], body: &[], trailers: &[], is_in_order: false, fate: Fate::Refused },
    Http2Case { name: "an authority with a user", fields: &[(b":authority", b"{mark}@hub")], body: &[], trailers: &[], is_in_order: false, fate: Fate::Refused },
    Http2Case { name: "an authority with a line", fields: &[(b":authority", b"hub\r\nx-a: b")], body: &[], trailers: &[], is_in_order: false, fate: Fate::Refused },
    Http2Case { name: "another host", fields: &[(b"host", b"evil")], body: &[], trailers: &[], is_in_order: false, fate: Fate::Refused },
    Http2Case { name: "the same host", fields: &[(b"host", b"hub")], body: &[], trailers: &[], is_in_order: false, fate: Fate::Served("") },
    Http2Case { name: "two authorities", fields: &[(b"+:authority", b"evil")], body: &[], trailers: &[], is_in_order: false, fate: Fate::Refused },
    Http2Case { name: "an unknown pseudo-header", fields: &[(b":x-tenant-id", b"{mark}")], body: &[], trailers: &[], is_in_order: false, fate: Fate::Refused },
    Http2Case { name: "a status", fields: &[(b":status", b"200")], body: &[], trailers: &[], is_in_order: false, fate: Fate::Refused },
    Http2Case { name: "a pseudo-header behind others", fields: &[(b"+:path", b"/{n}")], body: &[], trailers: &[], is_in_order: true, fate: Fate::Refused },
    Http2Case { name: "trailers that forge", fields: &[], body: &[b"abcd"], trailers: &[(b"x-tenant-id", b"{mark}"), (b"x_scopes", b"{mark}")], is_in_order: false, fate: Fate::Served("abcd") },
    Http2Case { name: "trailers that frame", fields: &[], body: &[b"abcd"], trailers: &[(b"content-length", b"9"), (b"host", b"{mark}")], is_in_order: false, fate: Fate::Served("abcd") },
    Http2Case { name: "trailers with a path", fields: &[], body: &[b"abcd"], trailers: &[(b":path", b"/smuggled")], is_in_order: false, fate: Fate::Served("abcd") },
    Http2Case { name: "trailers with a line", fields: &[], body: &[b"abcd"], trailers: &[(b"x-a", b"b\r\nx-tenant-id: {mark}")], is_in_order: false, fate: Fate::Refused },
];

/// Where the service speaks HTTP/2 itself.
#[rustfmt::skip]
pub(crate) const GRPC: &[Http2Case] = &[
    Http2Case { name: "gRPC", fields: &[(b"content-type", b"application/grpc"), (b"te", b"trailers")], body: &[b"abcd"], trailers: &[], is_in_order: false, fate: Fate::Served("abcd") },
    Http2Case { name: "gRPC with a forged header", fields: &[(b"content-type", b"application/grpc"), (b"te", b"trailers"), (b"x-tenant-id", b"{mark}")], body: &[b"abcd"], trailers: &[], is_in_order: false, fate: Fate::Served("abcd") },
    Http2Case { name: "gRPC with trailers that forge", fields: &[(b"content-type", b"application/grpc"), (b"te", b"trailers")], body: &[b"abcd"], trailers: &[(b"x-tenant-id", b"{mark}"), (b"x_auth_method", b"{mark}"), (b"x.scopes", b"{mark}"), (b"forwarded", b"{mark}")], is_in_order: false, fate: Fate::Served("abcd") },
    Http2Case { name: "gRPC with a wrong length", fields: &[(b"content-type", b"application/grpc"), (b"te", b"trailers"), (b"content-length", b"2")], body: &[b"abcd"], trailers: &[], is_in_order: false, fate: Fate::Refused },
];
