//! Issuers of tokens, good and hostile.

#![allow(dead_code, reason = "each test file uses a part of it")]

use aws_lc_rs::{
    rand::SystemRandom,
    rsa::KeySize,
    signature::{self, EcdsaKeyPair, KeyPair as _, RsaKeyPair},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

/// Bytes as a token has them.
pub(crate) fn base64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// An issuer with one key.
pub(crate) struct Issuer {
    /// The claim `iss` of its tokens.
    pub(crate) name: &'static str,
    /// The key's name; empty where it has none.
    kid: &'static str,
    key: Key,
}

enum Key {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
}

impl Issuer {
    /// Signs with RS256.
    pub(crate) fn rsa(name: &'static str, kid: &'static str) -> Self {
        let key = RsaKeyPair::generate(KeySize::Rsa2048).expect("a key");
        let key = Key::Rsa(key);
        Self { name, kid, key }
    }

    /// Signs with ES256.
    pub(crate) fn ec(name: &'static str, kid: &'static str) -> Self {
        let key = EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_FIXED_SIGNING);
        let key = Key::Ec(key.expect("a key"));
        Self { name, kid, key }
    }

    /// Its public key, as a key set has it.
    pub(crate) fn key(&self) -> Value {
        let mut key = match &self.key {
            Key::Rsa(pair) => {
                let public = pair.public_key();
                json!({
                    "kty": "RSA",
                    "n": base64(public.modulus().big_endian_without_leading_zero()),
                    "e": base64(public.exponent().big_endian_without_leading_zero()),
                })
            }
            Key::Ec(pair) => {
                let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
                json!({"kty": "EC", "crv": "P-256", "x": base64(x), "y": base64(y)})
            }
        };
        if !self.kid.is_empty() {
            key["kid"] = json!(self.kid);
        }
        key
    }

    /// Its key set.
    pub(crate) fn keys(&self) -> String {
        json!({"keys": [self.key()]}).to_string()
    }

    fn head(&self) -> Value {
        let algorithm = match self.key {
            Key::Rsa(_) => "RS256",
            Key::Ec(_) => "ES256",
        };
        let mut head = json!({"alg": algorithm, "typ": "JWT"});
        if !self.kid.is_empty() {
            head["kid"] = json!(self.kid);
        }
        head
    }

    /// A token for `joe` with more `claims`, or others.
    pub(crate) fn token(&self, claims: Value) -> String {
        self.token_with(json!({}), claims)
    }

    /// The same with more in its head.
    pub(crate) fn token_with(&self, head: Value, claims: Value) -> String {
        let mut all = json!({"iss": self.name, "sub": "joe"});
        extend(&mut all, claims);
        let mut whole = self.head();
        extend(&mut whole, head);
        self.sign(&whole.to_string(), &all.to_string())
    }

    /// A token out of these texts, as they are.
    pub(crate) fn sign(&self, head: &str, claims: &str) -> String {
        let signed = format!("{}.{}", base64(head), base64(claims));
        let random = SystemRandom::new();
        let signature = match &self.key {
            Key::Rsa(pair) => {
                let mut bytes = vec![0; pair.public_modulus_len()];
                pair.sign(
                    &signature::RSA_PKCS1_SHA256,
                    &random,
                    signed.as_bytes(),
                    &mut bytes,
                )
                .expect("a signature");
                bytes
            }
            Key::Ec(pair) => {
                let signature = pair.sign(&random, signed.as_bytes());
                signature.expect("a signature").as_ref().to_vec()
            }
        };
        format!("{signed}.{}", base64(signature))
    }

    /// The public key in PEM's bytes, for whoever takes it for a secret.
    pub(crate) fn public(&self) -> Vec<u8> {
        match &self.key {
            Key::Rsa(pair) => pair.public_key().as_ref().to_vec(),
            Key::Ec(pair) => pair.public_key().as_ref().to_vec(),
        }
    }
}

fn extend(all: &mut Value, more: Value) {
    if let (Value::Object(all), Value::Object(more)) = (all, more) {
        all.extend(more);
    }
}

/// A token signed with a secret (HS256).
pub(crate) fn with_secret(secret: &[u8], head: &str, claims: &str) -> String {
    let signed = format!("{}.{}", base64(head), base64(claims));
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret);
    let tag = aws_lc_rs::hmac::sign(&key, signed.as_bytes());
    format!("{signed}.{}", base64(tag))
}

/// The same token with a signature that is none.
pub(crate) fn spoiled(token: &str) -> String {
    let kept = token.len() - 8;
    format!("{}AAAAAAAA", &token[..kept])
}

/// `KIND NAME: SPEC` a line, for the namespace `default`.
pub(crate) fn policies(lines: &[String]) -> String {
    let documents = lines.iter().map(|line| {
        let (head, spec) = line.split_once(": ").unwrap_or((line, "{}"));
        let (kind, name) = head.split_once(' ').unwrap_or((head, "p"));
        format!(
            "apiVersion: security.istio.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: default}}\nspec: {spec}\n"
        )
    });
    documents.collect::<Vec<_>>().join("---\n")
}
