//! Keys of an issuer: a JSON Web Key Set (RFC 7517, 7518, 8037), and signatures checked by them.

use std::fmt;

use aws_lc_rs::signature::{
    self, EcdsaVerificationAlgorithm, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey,
};
use serde_json::Value;

use super::base64url::unescape;

/// Keys that are kept of a set; more are left out.
const MOST_KEYS: usize = 100;
/// Signatures that are checked for one token: one without a key's name could ask for all.
const MOST_TRIED: usize = 16;
/// The shortest RSA key that is trusted.
const RSA_BITS: usize = 2048;

/// A signature's algorithm. Those without a public key (`none`, `HS256`, …) are none of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Algorithm {
    /// RSA PKCS#1 v1.5.
    Rs(Hash),
    /// RSA PSS.
    Ps(Hash),
    /// ECDSA on the curve that goes with the hash (RFC 7518, section 3.4).
    Es(Hash),
    /// Ed25519.
    EdDsa,
}

/// A hash function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

impl Algorithm {
    /// By the name that a token's head has (RFC 7518, section 3.1). Case matters.
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "RS256" => Self::Rs(Hash::Sha256),
            "RS384" => Self::Rs(Hash::Sha384),
            "RS512" => Self::Rs(Hash::Sha512),
            "PS256" => Self::Ps(Hash::Sha256),
            "PS384" => Self::Ps(Hash::Sha384),
            "PS512" => Self::Ps(Hash::Sha512),
            "ES256" => Self::Es(Hash::Sha256),
            "ES384" => Self::Es(Hash::Sha384),
            "ES512" => Self::Es(Hash::Sha512),
            "EdDSA" => Self::EdDsa,
            _ => return None,
        })
    }

    fn rsa(self) -> Option<&'static RsaParameters> {
        Some(match self {
            Self::Rs(Hash::Sha256) => &signature::RSA_PKCS1_2048_8192_SHA256,
            Self::Rs(Hash::Sha384) => &signature::RSA_PKCS1_2048_8192_SHA384,
            Self::Rs(Hash::Sha512) => &signature::RSA_PKCS1_2048_8192_SHA512,
            Self::Ps(Hash::Sha256) => &signature::RSA_PSS_2048_8192_SHA256,
            Self::Ps(Hash::Sha384) => &signature::RSA_PSS_2048_8192_SHA384,
            Self::Ps(Hash::Sha512) => &signature::RSA_PSS_2048_8192_SHA512,
            Self::Es(_) | Self::EdDsa => return None,
        })
    }
}

/// The keys of a set that can be used.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys(Vec<Key>);

#[derive(Clone, PartialEq, Eq)]
struct Key {
    id: Option<Box<str>>,
    /// The one algorithm that it is for, where it says so.
    algorithm: Option<Algorithm>,
    public: Public,
}

#[derive(Clone, PartialEq, Eq)]
enum Public {
    Rsa {
        n: Box<[u8]>,
        e: Box<[u8]>,
    },
    /// An uncompressed point, and the hash that goes with its curve.
    Ec(Hash, Box<[u8]>),
    Ed25519(Box<[u8]>),
}

/// Why a text is no key set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotKeys {
    /// It is no JSON.
    #[error("not JSON: {0}")]
    Json(String),
    /// It has no list `keys`.
    #[error("not a key set: it has no `keys`")]
    NoList,
    /// None of its keys can be used.
    #[error(
        "it has no key that can verify a signature (RSA from 2048 bits on, P-256, P-384, P-521, Ed25519)"
    )]
    NoneUsable,
}

/// Whether a signature is one by these keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signature {
    /// It is.
    Good,
    /// One of them should have made it, and has not.
    Bad,
    /// None of them is for such a token.
    NoKey,
}

impl Keys {
    /// Reads a set. A key that is not understood is left out (RFC 7517, section 5).
    ///
    /// # Errors
    /// Where there is none left.
    pub fn read(text: &[u8]) -> Result<Self, NotKeys> {
        let set: Value = serde_json::from_slice(text).map_err(|e| NotKeys::Json(e.to_string()))?;
        let Some(Value::Array(keys)) = set.get("keys") else {
            return Err(NotKeys::NoList);
        };
        let keys: Vec<Key> = keys.iter().filter_map(Key::read).take(MOST_KEYS).collect();
        if keys.is_empty() {
            return Err(NotKeys::NoneUsable);
        }
        Ok(Self(keys))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Checks the signature of `message`. A key that has another name, or is for another algorithm,
    /// is not tried; one without a name is (Envoy).
    pub(super) fn check(
        &self,
        algorithm: Algorithm,
        id: Option<&str>,
        message: &[u8],
        signature: &[u8],
    ) -> Signature {
        let candidates = self.0.iter().filter(|key| {
            let same_id = key.id.as_deref().zip(id).is_none_or(|(own, id)| own == id);
            same_id && key.algorithm.is_none_or(|own| own == algorithm)
        });
        let mut found = Signature::NoKey;
        for key in candidates.take(MOST_TRIED) {
            if key.public.verifies(algorithm, message, signature) {
                return Signature::Good;
            }
            found = Signature::Bad;
        }
        found
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} keys", self.0.len())
    }
}

impl Key {
    fn read(key: &Value) -> Option<Self> {
        let text = |name: &str| key.get(name).and_then(Value::as_str);
        let bytes = |name: &str| unescape(text(name)?).filter(|one| !one.is_empty());
        if text("use").is_some_and(|purpose| purpose != "sig") {
            return None;
        }
        let algorithm = match text("alg") {
            Some(name) => Some(Algorithm::named(name)?),
            None => None,
        };
        let public = match text("kty")? {
            "RSA" => {
                let n = bytes("n")?;
                let zeros = n.iter().take_while(|byte| **byte == 0).count();
                if (n.len() - zeros) * 8 < RSA_BITS {
                    return None;
                }
                Public::Rsa {
                    n: n[zeros..].into(),
                    e: bytes("e")?.into(),
                }
            }
            "EC" => {
                let (hash, size) = match text("crv")? {
                    "P-256" => (Hash::Sha256, 32),
                    "P-384" => (Hash::Sha384, 48),
                    "P-521" => (Hash::Sha512, 66),
                    _ => return None,
                };
                let (x, y) = (bytes("x")?, bytes("y")?);
                if x.len() != size || y.len() != size {
                    return None;
                }
                Public::Ec(hash, [&[4][..], &x, &y].concat().into())
            }
            "OKP" if text("crv") == Some("Ed25519") => {
                Public::Ed25519(bytes("x").filter(|one| one.len() == 32)?.into())
            }
            _ => return None,
        };
        Some(Self {
            id: text("kid").filter(|id| !id.is_empty()).map(Into::into),
            algorithm,
            public,
        })
    }
}

impl Public {
    /// The kind of the key decides what a signature can be, whatever the token says.
    fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        match (self, algorithm) {
            (Self::Rsa { n, e }, _) => algorithm.rsa().is_some_and(|algorithm| {
                let key = RsaPublicKeyComponents { n, e };
                key.verify(algorithm, message, signature).is_ok()
            }),
            (Self::Ec(own, point), Algorithm::Es(hash)) if *own == hash => {
                let algorithm: &'static EcdsaVerificationAlgorithm = match hash {
                    Hash::Sha256 => &signature::ECDSA_P256_SHA256_FIXED,
                    Hash::Sha384 => &signature::ECDSA_P384_SHA384_FIXED,
                    Hash::Sha512 => &signature::ECDSA_P521_SHA512_FIXED,
                };
                let key = UnparsedPublicKey::new(algorithm, point);
                key.verify(message, signature).is_ok()
            }
            (Self::Ed25519(key), Algorithm::EdDsa) => {
                let key = UnparsedPublicKey::new(&signature::ED25519, key);
                key.verify(message, signature).is_ok()
            }
            (Self::Ec(..) | Self::Ed25519(_), _) => false,
        }
    }
}
