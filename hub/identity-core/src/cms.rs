//! Signed data (RFC 5652) of one signer: RSA with SHA-256, and nothing else.

use ring::digest::{SHA256, digest};
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use x509_parser::certificate::X509Certificate;

use crate::ber::{CONTEXT_0, CONTEXT_1, INTEGER, Node, OCTETS, OID, SEQUENCE, SET};
use crate::{MAX_DOCUMENT, ProofRefusal};

/// 1.2.840.113549.1.7.2
const SIGNED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02];
/// 1.2.840.113549.1.7.1
const DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01];
/// 1.2.840.113549.1.9.3
const CONTENT_TYPE: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x03];
/// 1.2.840.113549.1.9.4
const MESSAGE_DIGEST: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x04];
/// 2.16.840.1.101.3.4.2.1
const SHA_256: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01];
/// 1.2.840.113549.1.1.1 and 1.2.840.113549.1.1.11: RSA, and RSA with SHA-256.
const RSA: [&[u8]; 2] = [
    &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01],
    &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b],
];

/// A signed document, read and not yet believed.
#[derive(Debug)]
pub(crate) struct SignedData<'a> {
    content: Vec<u8>,
    /// Certificates that came with it, in DER.
    pub(crate) certificates: Vec<&'a [u8]>,
    issuer: &'a [u8],
    serial: &'a [u8],
    signed: Option<SignedAttributes>,
    signature: &'a [u8],
}

/// What the signature is over, where it is not the content itself.
#[derive(Debug)]
struct SignedAttributes {
    /// As they are signed: a set, in DER.
    bytes: Vec<u8>,
    digest: Vec<u8>,
}

impl<'a> SignedData<'a> {
    /// Reads a document. It has to hold its content, and one signature by RSA with SHA-256.
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Self, ProofRefusal> {
        if bytes.len() > MAX_DOCUMENT {
            return Err(ProofRefusal::Malformed("longer than such documents are"));
        }
        let root = Node::read(bytes).ok_or(ProofRefusal::Malformed("not BER"))?;
        let [kind, wrapped] = fields(&root, SEQUENCE)? else { return Err(form()) };
        if kind.bytes(OID) != Some(SIGNED_DATA) {
            return Err(form());
        }
        let [data] = fields(wrapped, CONTEXT_0)? else { return Err(form()) };
        let [_version, _digests, inner, rest @ ..] = fields(data, SEQUENCE)? else { return Err(form()) };
        let [kind, content] = fields(inner, SEQUENCE)? else {
            return Err(ProofRefusal::Malformed("the content is not inside"));
        };
        if kind.bytes(OID) != Some(DATA) {
            return Err(form());
        }
        let [content] = fields(content, CONTEXT_0)? else { return Err(form()) };
        let content = content.octets().ok_or_else(form)?;
        let (certificates, signers) = match rest {
            [certificates, signers] if certificates.tag == CONTEXT_0 => {
                (certificates.inside.as_slice(), signers)
            }
            [certificates, _, signers] if certificates.tag == CONTEXT_0 => {
                (certificates.inside.as_slice(), signers)
            }
            [signers] => (&[][..], signers),
            _ => return Err(form()),
        };
        let [signer] = fields(signers, SET)? else {
            return Err(ProofRefusal::Signer("there has to be one signature"));
        };
        let certificates = certificates.iter().map(|certificate| certificate.whole).collect();
        Self::with_signer(content, certificates, signer)
    }

    fn with_signer(
        content: Vec<u8>,
        certificates: Vec<&'a [u8]>,
        signer: &Node<'a>,
    ) -> Result<Self, ProofRefusal> {
        let (name, digest_with, signed, rest) = match fields(signer, SEQUENCE)? {
            [_, name, digest, signed, rest @ ..] if signed.tag == CONTEXT_0 => {
                (name, digest, Some(signed), rest)
            }
            [_, name, digest, rest @ ..] => (name, digest, None, rest),
            _ => return Err(form()),
        };
        let (signature_with, signature) = match rest {
            [with, signature] => (with, signature),
            [with, signature, unsigned] if unsigned.tag == CONTEXT_1 => (with, signature),
            _ => return Err(form()),
        };
        if algorithm(digest_with) != Some(SHA_256) {
            return Err(ProofRefusal::Algorithm("its digest is not SHA-256"));
        }
        if !algorithm(signature_with).is_some_and(|found| RSA.contains(&found)) {
            return Err(ProofRefusal::Algorithm("its signature is not RSA with SHA-256"));
        }
        let [issuer, serial] = fields(name, SEQUENCE)? else { return Err(form()) };
        Ok(Self {
            content,
            certificates,
            issuer: issuer.whole,
            serial: serial.bytes(INTEGER).ok_or_else(form)?,
            signed: signed.map(attributes).transpose()?,
            signature: signature.bytes(OCTETS).ok_or_else(form)?,
        })
    }

    /// True where the document says that this certificate's key signed it.
    pub(crate) fn names(&self, certificate: &X509Certificate<'_>) -> bool {
        certificate.issuer().as_raw() == self.issuer && certificate.raw_serial() == self.serial
    }

    /// Gives the content where the key of this certificate signed it.
    pub(crate) fn verify(self, certificate: &X509Certificate<'_>) -> Result<Vec<u8>, ProofRefusal> {
        let key: &[u8] = &certificate.public_key().subject_public_key.data;
        let message = match &self.signed {
            None => &self.content,
            Some(signed) => {
                if signed.digest != digest(&SHA256, &self.content).as_ref() {
                    return Err(ProofRefusal::Signature);
                }
                &signed.bytes
            }
        };
        let key = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key);
        key.verify(message, self.signature).map_err(|_| ProofRefusal::Signature)?;
        Ok(self.content)
    }
}

/// Signed attributes: what they say of the content, and the bytes that are signed.
fn attributes(node: &Node<'_>) -> Result<SignedAttributes, ProofRefusal> {
    // Signed is the set and not its place in the document, so its first byte is another one; and it is DER.
    let (_, rest) = node.whole.split_first().filter(|_| node.is_definite).ok_or_else(form)?;
    let bytes = [&[SET], rest].concat();
    let kind = one(node, CONTENT_TYPE)?;
    if kind.bytes(OID) != Some(DATA) {
        return Err(form());
    }
    let digest = one(node, MESSAGE_DIGEST)?.bytes(OCTETS).ok_or_else(form)?.to_vec();
    Ok(SignedAttributes { bytes, digest })
}

/// The one value of an attribute that is there once.
fn one<'n, 'a>(attributes: &'n Node<'a>, name: &[u8]) -> Result<&'n Node<'a>, ProofRefusal> {
    let mut found = None;
    for attribute in &attributes.inside {
        let [kind, values] = fields(attribute, SEQUENCE)? else { return Err(form()) };
        if kind.bytes(OID) != Some(name) {
            continue;
        }
        let [value] = fields(values, SET)? else { return Err(form()) };
        if found.replace(value).is_some() {
            return Err(form());
        }
    }
    found.ok_or_else(form)
}

/// The name of an algorithm.
fn algorithm<'a>(node: &Node<'a>) -> Option<&'a [u8]> {
    node.values(SEQUENCE)?.first()?.bytes(OID)
}

fn fields<'n, 'a>(node: &'n Node<'a>, tag: u8) -> Result<&'n [Node<'a>], ProofRefusal> {
    node.values(tag).ok_or_else(form)
}

const fn form() -> ProofRefusal {
    ProofRefusal::Malformed("not signed data as clouds write it")
}
