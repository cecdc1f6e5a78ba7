"""A client of the existing Blueprint auth proxy, written against its published documentation and nothing else.

    client.py keys                      what the operator has to be told: the owner's key and the issuer's
    client.py run HOST:PORT RSA_KEY     an owner, its customer and somebody who listens; fails at the first surprise

Only Python's own library: the signatures are written out here, for tests alone (no secret of any worth, no constant
time).
"""

import base64
import hashlib
import http.client
import json
import secrets
import sys
import time
import urllib.parse

# Prime, a, b (not needed), order and generator of the two curves.
SECP256K1 = (
    2**256 - 2**32 - 977,
    0,
    0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141,
    (
        0x79BE667EF9DCBBAC55A06295CE870B07029BFCDB2DCE28D959F2815B16F81798,
        0x483ADA7726A3C4655DA4FBFC0E1108A8FD17B448A68554199C47D08FFB10D4B8,
    ),
)
P256 = (
    2**256 - 2**224 + 2**192 + 2**96 - 1,
    -3,
    0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    (
        0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
        0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
    ),
)
OWNER, ISSUER = 0x0123456789ABCDEF, 0xFEDCBA9876543210


def add(curve, left, right):
    prime, a = curve[:2]
    if left is None or right is None:
        return left or right
    (x1, y1), (x2, y2) = left, right
    if x1 == x2 and (y1 + y2) % prime == 0:
        return None
    if left == right:
        slope = (3 * x1 * x1 + a) * pow(2 * y1, -1, prime)
    else:
        slope = (y2 - y1) * pow(x2 - x1, -1, prime)
    x = (slope * slope - x1 - x2) % prime
    return x, (slope * (x1 - x) - y1) % prime


def times(curve, factor, point):
    product = None
    while factor:
        if factor & 1:
            product = add(curve, product, point)
        point, factor = add(curve, point, point), factor >> 1
    return product


def ecdsa(curve, secret, digest):
    """The two halves of a signature of 32 bytes, 64 bytes; the second half is the low one, as wallets make it."""
    order, generator = curve[2:]
    while True:
        nonce = secrets.randbelow(order - 1) + 1
        r = times(curve, nonce, generator)[0] % order
        s = pow(nonce, -1, order) * (int.from_bytes(digest, "big") + r * secret) % order
        if r and s:
            return r.to_bytes(32, "big") + min(s, order - s).to_bytes(32, "big")


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def rsa(path, message):
    """PKCS #1 v1.5 over SHA-256 with a key in PKCS #8."""

    def items(der):
        found = []
        while der:
            size, start = der[1], 2
            if size & 0x80:
                start += size & 0x7F
                size = int.from_bytes(der[2:start], "big")
            found.append(der[start : start + size])
            der = der[start + size :]
        return found

    with open(path, "rb") as file:
        numbers = items(items(items(items(file.read())[0])[2])[0])
    modulus, secret = (int.from_bytes(numbers[at], "big") for at in (1, 3))
    size = (modulus.bit_length() + 7) // 8
    info = bytes.fromhex("3031300d060960864801650304020105000420") + hashlib.sha256(message).digest()
    padded = b"\0\1" + b"\xff" * (size - len(info) - 3) + b"\0" + info
    return pow(int.from_bytes(padded, "big"), secret, modulus).to_bytes(size, "big")


def owner_key():
    x, y = times(SECP256K1, OWNER, SECP256K1[3])
    return bytes([2 + y % 2]) + x.to_bytes(32, "big")


def issuer_pem():
    x, y = times(P256, ISSUER, P256[3])
    head = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200") + b"\4"
    text = base64.b64encode(head + x.to_bytes(32, "big") + y.to_bytes(32, "big")).decode()
    return f"-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n"


class Client:
    def __init__(self, address):
        self.address = address

    def ask(self, method, path, body=None, **headers):
        connection = http.client.HTTPConnection(self.address, timeout=20)
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        if isinstance(body, dict):
            headers["Content-Type"] = "application/json"
            body = json.dumps(body)
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        text = answer.read().decode()
        assert answer.headers["x-request-id"], "every answer names its request"
        try:
            return answer.status, json.loads(text)
        except ValueError:
            return answer.status, text

    def expect(self, status, method, path, body=None, **headers):
        found, answer = self.ask(method, path, body, **headers)
        assert found == status, f"{method} {path}: {found} instead of {status}: {answer}"
        return answer

    def challenge(self):
        key = {"pub_key": owner_key().hex(), "key_type": "Ecdsa"}
        challenge = self.expect(200, "POST", "/v1/auth/challenge", key, X_Service_Id="42:0")
        assert len(bytes.fromhex(challenge["challenge"])) == 32
        assert 0 < challenge["expires_at"] - time.time() <= 31, challenge
        return key, challenge["challenge"]

    def solution(self, **more):
        key, challenge = self.challenge()
        signature = ecdsa(SECP256K1, OWNER, bytes.fromhex(challenge))
        known = {"challenge": challenge, "signature": signature.hex(), "expires_at": int(time.time()) + 3600}
        return {**key, **known, "additional_headers": {}, **more}


def owner_and_customer(client):
    solution = client.solution(additional_headers={"X-Tenant-Id": "customer", "X-Tenant-Name": "Acme"})
    verified = client.expect(201, "POST", "/v1/auth/verify", solution, X_Service_Id="42")
    assert verified["status"] == "Verified", verified
    key = verified["data"]["api_key"]
    prefix, secret = key.split(".")
    assert prefix.startswith("acme_") and len(secret) == 32, key
    assert 0 < verified["data"]["expires_at"] - time.time() <= 3601
    print("a key for an owner")

    bearer = f"Bearer {key}"
    asked = {"additional_headers": {"X-Plan": "gold"}, "ttl_seconds": 300}
    token = client.expect(200, "POST", "/v1/auth/exchange", asked, Authorization=bearer)
    assert token["access_token"].startswith("v4.local.") and token["token_type"] == "Bearer"
    assert token["expires_in"] == 300 and 0 < token["expires_at"] - time.time() <= 301
    for credential in (key, token["access_token"]):
        seen = client.expect(200, "GET", "/hello", Authorization=f"Bearer {credential}", X_Tenant_Name="Evil")
        assert "x-tenant-name: Acme\n" in seen and "Evil" not in seen, seen
        assert credential not in seen, "the credential stays at the proxy"
    print("a token for its customer, and requests with both")

    replayed = client.expect(401, "POST", "/v1/auth/verify", solution, X_Service_Id="42")
    assert replayed["status"] == "Expired", replayed
    moved = {**client.solution(), "challenge": solution["challenge"]}
    client.expect(401, "POST", "/v1/auth/verify", moved, X_Service_Id="42")
    print("a captured solution gets 401")

    stranger = client.solution()
    client.expect(401, "POST", "/v1/auth/verify", stranger, X_Service_Id="60")
    flipped = client.solution()
    flipped["signature"] = ("0" if flipped["signature"][0] != "0" else "1") + flipped["signature"][1:]
    assert client.expect(401, "POST", "/v1/auth/verify", flipped, X_Service_Id="42")["status"] == "InvalidSignature"
    missing = client.solution()
    status, answer = client.ask("POST", "/v1/auth/verify", missing, X_Service_Id="999")
    assert status == 404 and answer["status"] == "ServiceNotFound", answer
    client.expect(428, "POST", "/v1/auth/verify", missing)
    client.expect(400, "POST", "/v1/auth/verify", missing, X_Service_Id="forty-two")
    client.expect(403, "GET", "/hello", Authorization=bearer, X_Service_Id="60")
    client.expect(401, "GET", "/hello", Authorization=f"{bearer}x")
    client.expect(401, "POST", "/v1/auth/exchange", {}, Authorization=f"Bearer {token['access_token']}")
    print("wrong services, signatures and credentials are refused")

    for name in ("X-Auth-Method", "x_auth_method", "X-Scopes", "X-Client-Cert-Subject", "X-Blueprint-Identity",
                 "X-Forwarded-For", "Forwarded", "Authorization", "X-Service-Id", "Host", "X.Scopes", "X-A\r\nX-Scopes"):
        answer = client.expect(400, "POST", "/v1/auth/exchange", {"additional_headers": {name: "evil"}}, Authorization=bearer)
        assert answer["error"] == "invalid_headers", f"{name!r}: {answer}"
    lines = {"additional_headers": {"X-Plan": "gold\r\nX-Scopes: admin"}}
    client.expect(400, "POST", "/v1/auth/exchange", lines, Authorization=bearer)
    print("headers of a token say nothing that the hub says")


def assertion(algorithm, rsa_key, **more):
    now = int(time.time())
    claims = {"iss": "https://issuer.example", "sub": "customer-1", "aud": "https://hub.example", "iat": now}
    claims |= {"exp": now + 120, "jti": secrets.token_hex(8), "scope": "Write READ admin", **more}
    parts = [b64(json.dumps(part).encode()) for part in ({"alg": algorithm, "typ": "JWT"}, claims)]
    signed = ".".join(parts).encode()
    if algorithm == "RS256":
        return f"{signed.decode()}.{b64(rsa(rsa_key, signed))}"
    return f"{signed.decode()}.{b64(ecdsa(P256, ISSUER, hashlib.sha256(signed).digest()))}"


def oauth(client, rsa_key):
    def token(status, text, **headers):
        form = {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": text}
        headers = {"X_Service_Id": "42", "Content_Type": "application/x-www-form-urlencoded", **headers}
        return client.expect(status, "POST", "/v1/oauth/token", urllib.parse.urlencode(form), **headers)

    for algorithm in ("RS256", "ES256"):
        text = assertion(algorithm, rsa_key)
        answer = token(200, text)
        assert answer["token_type"] == "Bearer" and 0 < answer["expires_in"] <= 900, answer
        bearer = f"Bearer {answer['access_token']}"
        seen = client.expect(200, "GET", "/hello", Authorization=bearer, X_Scopes="admin")
        assert "x-scopes: read write\n" in seen and "x-tenant-id: " in seen, seen
        assert token(400, text)["error"] == "invalid_grant", "an assertion works once"
        now = int(time.time())
        for wrong, error in (
            ({"iss": "https://evil.example"}, "invalid_grant"),
            ({"aud": "https://other.example"}, "invalid_grant"),
            ({"iat": now - 400, "exp": now - 200}, "invalid_grant"),
            ({"exp": now + 4000}, "invalid_grant"),
            ({"jti": ""}, "invalid_request"),
            ({"scope": "admin"}, "invalid_scope"),
        ):
            answer = token(400, assertion(algorithm, rsa_key, **wrong))
            assert answer["error"] == error, f"{wrong}: {answer}"
        print(f"a token for an assertion in {algorithm}")
    header, rest = assertion("ES256", rsa_key).split(".", 1)
    none = b64(b'{"alg":"none"}')
    assert token(400, f"{none}.{rest.split('.')[0]}.")["error"] == "invalid_request"
    assert token(400, f"{b64(json.dumps({'alg': 'RS256'}).encode())}.{rest}")["error"] == "invalid_grant"


def main(arguments):
    if arguments == ["keys"]:
        print(json.dumps({"owner": f"ecdsa:{owner_key().hex()}", "issuer": issuer_pem()}))
        return
    _, address, rsa_key = arguments
    client = Client(address)
    owner_and_customer(client)
    oauth(client, rsa_key)
    print("done")


main(sys.argv[1:])
