//! Tokens made by keys of these tests, against rules as they are written.

use std::sync::LazyLock;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    self, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _, RsaEncoding,
    RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderName, HeaderValue};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::api::request_authentication::JwtRule;
use crate::types::ObjectRef;

/// When the tests take place.
const NOW: u64 = 1_000_000;

fn base64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The issuers' private keys.
enum Private {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair, &'static str),
    Ed25519(Ed25519KeyPair),
}

impl Private {
    fn rsa(size: KeySize) -> Self {
        Self::Rsa(RsaKeyPair::generate(size).unwrap())
    }

    fn ec(algorithm: &'static EcdsaSigningAlgorithm, curve: &'static str) -> Self {
        Self::Ec(EcdsaKeyPair::generate(algorithm).unwrap(), curve)
    }

    /// As a key set has it, with `more` fields.
    fn public(&self, more: Value) -> Value {
        let mut key = match self {
            Self::Rsa(pair) => json!({
                "kty": "RSA",
                "n": base64(pair.public_key().modulus().big_endian_without_leading_zero()),
                "e": base64(pair.public_key().exponent().big_endian_without_leading_zero()),
            }),
            Self::Ec(pair, curve) => {
                let point = &pair.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                json!({"kty": "EC", "crv": curve, "x": base64(x), "y": base64(y)})
            }
            Self::Ed25519(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": base64(pair.public_key())})
            }
        };
        let fields = more.as_object().unwrap().clone();
        key.as_object_mut().unwrap().extend(fields);
        key
    }

    fn sign(&self, algorithm: &str, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Rsa(pair) => {
                let encoding: &'static dyn RsaEncoding = match algorithm {
                    "RS384" => &signature::RSA_PKCS1_SHA384,
                    "RS512" => &signature::RSA_PKCS1_SHA512,
                    "PS256" => &signature::RSA_PSS_SHA256,
                    "PS384" => &signature::RSA_PSS_SHA384,
                    "PS512" => &signature::RSA_PSS_SHA512,
                    _ => &signature::RSA_PKCS1_SHA256,
                };
                let mut signed = vec![0; pair.public_modulus_len()];
                pair.sign(encoding, &random, message, &mut signed).unwrap();
                signed
            }
            Self::Ec(pair, _) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Self::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }
}

static RSA: LazyLock<Private> = LazyLock::new(|| Private::rsa(KeySize::Rsa2048));
static OTHER: LazyLock<Private> = LazyLock::new(|| Private::rsa(KeySize::Rsa2048));
static P256: LazyLock<Private> =
    LazyLock::new(|| Private::ec(&signature::ECDSA_P256_SHA256_FIXED_SIGNING, "P-256"));
static P384: LazyLock<Private> =
    LazyLock::new(|| Private::ec(&signature::ECDSA_P384_SHA384_FIXED_SIGNING, "P-384"));
static P521: LazyLock<Private> =
    LazyLock::new(|| Private::ec(&signature::ECDSA_P521_SHA512_FIXED_SIGNING, "P-521"));
static ED: LazyLock<Private> =
    LazyLock::new(|| Private::Ed25519(Ed25519KeyPair::generate().unwrap()));

fn set(keys: &[Value]) -> String {
    json!({"keys": keys}).to_string()
}

/// A token out of the JSON of its head and claims, as they are.
fn token(key: &Private, head: &str, claims: &str) -> String {
    let algorithm = serde_json::from_str::<Value>(head).unwrap_or_default();
    let algorithm = algorithm["alg"].as_str().unwrap_or_default().to_owned();
    let signed = format!("{}.{}", base64(head), base64(claims));
    let signature = key.sign(&algorithm, signed.as_bytes());
    format!("{signed}.{}", base64(signature))
}

/// A token of the issuer `a` for `joe` with `more` claims.
fn good(more: Value) -> String {
    let mut claims = json!({"iss": "a", "sub": "joe"});
    let more = more.as_object().unwrap().clone();
    claims.as_object_mut().unwrap().extend(more);
    token(&RSA, r#"{"alg":"RS256"}"#, &claims.to_string())
}

/// A rule out of YAML's flow form, with the key of `a` where it has none.
fn rule(text: &str) -> Rule {
    let text = format!("{{issuer: a, {text}}}");
    let mut written: JwtRule = serde_yaml::from_str(&text).unwrap();
    if written.jwks.is_empty() && written.jwks_uri.is_empty() {
        written.jwks = set(&[RSA.public(json!({}))]);
    }
    let object = ObjectRef {
        kind: "RequestAuthentication".into(),
        namespace: "shop".into(),
        name: "jwt".into(),
    };
    Rule::compile(object, &written)
}

fn rules(keys: &[Value]) -> [Rule; 1] {
    let mut rule = rule("");
    rule.keys = Source::Given(Arc::new(Keys::read(set(keys).as_bytes()).unwrap()));
    [rule]
}

/// A request after it was examined.
struct Examined {
    target: Uri,
    headers: HeaderMap,
    result: Result<Option<Verified>, Refusal>,
}

impl Examined {
    /// Whose token it is, or why it is refused.
    fn said(&self) -> String {
        match &self.result {
            Ok(None) => "none".to_owned(),
            Ok(Some(verified)) => verified.token.principal().unwrap_or("nobody").to_owned(),
            Err(refusal) => refusal.to_string(),
        }
    }

    fn header(&self, name: &str) -> Vec<&str> {
        let values = self.headers.get_all(name).iter();
        values.map(|one| one.to_str().unwrap()).collect()
    }
}

fn ask(rules: &[Rule], method: &str, target: &str, headers: &[(&str, &str)]) -> Examined {
    let method: Method = method.parse().unwrap();
    let mut examined = Examined {
        target: target.parse().unwrap(),
        headers: HeaderMap::new(),
        result: Ok(None),
    };
    for (name, value) in headers {
        let name: HeaderName = name.parse().unwrap();
        let value = HeaderValue::from_str(value).unwrap();
        examined.headers.append(name, value);
    }
    let subject = Subject {
        method: &method,
        target: &mut examined.target,
        headers: &mut examined.headers,
    };
    let known = Known {
        now: NOW,
        keys: &|_| None,
    };
    examined.result = examine(rules, subject, &known);
    examined
}

/// What is said of this token after `Bearer `.
fn bearer(rules: &[Rule], token: &str) -> String {
    let value = format!("Bearer {token}");
    ask(rules, "GET", "/", &[("authorization", &value)]).said()
}

const FORM: &str =
    "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections";
const FAILS: &str = "Jwt verification fails";
const NO_KEY: &str = "Jwks doesn't have key to match kid or alg from Jwt";
const NO_ISSUER: &str = "Jwt issuer is not configured";

#[test]
fn every_algorithm_with_its_own_kind_of_key_alone() {
    let keys: [(&str, &Private); 5] = [
        ("rsa", &RSA),
        ("p256", &P256),
        ("p384", &P384),
        ("p521", &P521),
        ("ed", &ED),
    ];
    for (algorithm, of) in [
        ("RS256", "rsa"),
        ("RS384", "rsa"),
        ("RS512", "rsa"),
        ("PS256", "rsa"),
        ("PS384", "rsa"),
        ("PS512", "rsa"),
        ("ES256", "p256"),
        ("ES384", "p384"),
        ("ES512", "p521"),
        ("EdDSA", "ed"),
    ] {
        for (name, key) in keys {
            let head = format!("{{\"alg\":\"{algorithm}\"}}");
            let token = token(key, &head, r#"{"iss":"a","sub":"joe"}"#);
            let expected = if name == of { "a/joe" } else { FAILS };
            // Alone, and among others.
            let alone = rules(&[key.public(json!({}))]);
            let all = rules(&keys.map(|(_, key)| key.public(json!({}))));
            assert_eq!(bearer(&alone, &token), expected, "{algorithm} by {name}");
            assert_eq!(bearer(&all, &token), expected, "{algorithm} by {name}");
            // Of the same kind, and another's.
            let others = rules(&[OTHER.public(json!({}))]);
            assert_eq!(bearer(&others, &token), FAILS, "{algorithm} by another");
        }
    }
}

#[test]
fn no_token_chooses_how_it_is_verified() {
    let public = RSA.public(json!({"kid": "r"}));
    let all = rules(std::slice::from_ref(&public));
    let claims = r#"{"iss":"a","sub":"joe"}"#;
    let forged = |head: &str, signature: &[u8]| {
        format!("{}.{}.{}", base64(head), base64(claims), base64(signature))
    };
    // The public key, in whatever form, as a secret; no signature; a made-up algorithm.
    for name in [
        "none", "None", "NONE", "HS256", "HS384", "HS512", "rs256", "RS256 ", "ES256K",
    ] {
        let head = format!("{{\"alg\":\"{name}\"}}");
        let said = bearer(&all, &forged(&head, b"0123456789abcdef0123456789abcdef"));
        assert_eq!(said, "Jwt header [alg] is not supported", "{name}");
        assert_eq!(bearer(&all, &forged(&head, b"")), FORM, "{name}");
    }
    // A key of its own, in the head or at a URL; names that lead elsewhere.
    let own = OTHER.public(json!({"kid": "r"}));
    for (head, expected) in [
        (json!({"alg": "RS256", "jwk": own}), FAILS),
        (
            json!({"alg": "RS256", "kid": "r", "jku": "http://evil.test", "x5u": "http://evil.test"}),
            FAILS,
        ),
        (
            json!({"alg": "RS256", "kid": "../../../../dev/null"}),
            NO_KEY,
        ),
        (json!({"alg": "RS256", "kid": "r' OR 1=1"}), NO_KEY),
        (json!({"alg": "RS256", "kid": ""}), FAILS),
        (
            json!({"alg": "RS256", "kid": 5}),
            "Jwt header [kid] field is not a string",
        ),
        (
            json!({"alg": "RS256", "kid": null}),
            "Jwt header [kid] field is not a string",
        ),
        (
            json!({"alg": "RS256", "crit": ["b64"], "b64": false}),
            "Jwt header [alg] is not supported",
        ),
        (
            json!({"alg": 5}),
            "Jwt header [alg] field is required and must be a string",
        ),
        (
            json!({}),
            "Jwt header [alg] field is required and must be a string",
        ),
    ] {
        let token = token(&OTHER, &head.to_string(), claims);
        assert_eq!(bearer(&all, &token), expected, "{head}");
    }
    // ECDSA: zeros are no signature, and neither is one of twice the length.
    let ec = rules(&[P256.public(json!({}))]);
    for signature in [vec![0; 64], vec![0; 128], vec![1; 64], vec![0]] {
        let said = bearer(&ec, &forged(r#"{"alg":"ES256"}"#, &signature));
        assert_eq!(said, FAILS, "{signature:?}");
    }
}

#[test]
fn keys_are_chosen_by_name_and_algorithm() {
    let one = |more: Value| RSA.public(more);
    for (keys, head, expected) in [
        (
            vec![one(json!({"kid": "x"}))],
            json!({"alg": "RS256"}),
            "a/joe",
        ),
        (
            vec![one(json!({"kid": "x"}))],
            json!({"alg": "RS256", "kid": "x"}),
            "a/joe",
        ),
        (
            vec![one(json!({"kid": "x"}))],
            json!({"alg": "RS256", "kid": "X"}),
            NO_KEY,
        ),
        (
            vec![one(json!({}))],
            json!({"alg": "RS256", "kid": "x"}),
            "a/joe",
        ),
        (
            vec![one(json!({"alg": "RS256"}))],
            json!({"alg": "RS256"}),
            "a/joe",
        ),
        (
            vec![one(json!({"alg": "PS256"}))],
            json!({"alg": "RS256"}),
            NO_KEY,
        ),
        (
            vec![OTHER.public(json!({})), one(json!({}))],
            json!({"alg": "RS256"}),
            "a/joe",
        ),
        (
            vec![OTHER.public(json!({"kid": "x"})), one(json!({"kid": "y"}))],
            json!({"alg": "RS256", "kid": "x"}),
            FAILS,
        ),
    ] {
        let token = token(&RSA, &head.to_string(), r#"{"iss":"a","sub":"joe"}"#);
        assert_eq!(bearer(&rules(&keys), &token), expected, "{head} {keys:?}");
    }
    // A token without a name does not have a hundred signatures checked.
    let mut many: Vec<Value> = (0..20).map(|_| OTHER.public(json!({}))).collect();
    many.push(one(json!({})));
    assert_eq!(bearer(&rules(&many), &good(json!({}))), FAILS);
}

#[test]
fn sets_are_read_with_bounds() {
    let small = Private::rsa(KeySize::Rsa2048).public(json!({}));
    let short = json!({"kty": "RSA", "n": base64([0xff; 128]), "e": "AQAB"});
    let none = Err(NotKeys::NoneUsable);
    for (text, expected) in [
        (set(std::slice::from_ref(&small)), Ok(1)),
        (
            set(&[json!({"kty": "later"}), json!(5), small.clone()]),
            Ok(1),
        ),
        (set(&[short]), none.clone()),
        (set(&[]), none.clone()),
        (set(&[json!({"kty": "oct", "k": "c2VjcmV0"})]), none.clone()),
        (
            set(&[json!({"kty": "RSA", "n": "!", "e": "AQAB"})]),
            none.clone(),
        ),
        (set(&[RSA.public(json!({"use": "enc"}))]), none.clone()),
        (set(&[RSA.public(json!({"alg": "HS256"}))]), none.clone()),
        (
            set(&[json!({"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"})]),
            none,
        ),
        (set(&vec![small; 1000]), Ok(100)),
        ("{}".to_owned(), Err(NotKeys::NoList)),
        ("[]".to_owned(), Err(NotKeys::NoList)),
        (r#"{"keys": {}}"#.to_owned(), Err(NotKeys::NoList)),
    ] {
        let found = Keys::read(text.as_bytes()).map(|keys| keys.count());
        assert_eq!(found, expected, "{}", &text[..text.len().min(100)]);
    }
    let nested = "[".repeat(100_000);
    for text in ["", "{", "<html>", nested.as_str()] {
        let found = Keys::read(text.as_bytes());
        assert!(matches!(found, Err(NotKeys::Json(_))));
    }
}

#[test]
fn what_is_no_token_is_told_as_envoy_tells_it() {
    let all = [rule("")];
    let good = good(json!({}));
    let (signed, _) = good.rsplit_once('.').unwrap();
    let head = good.split('.').next().unwrap();
    for (token, expected) in [
        ("garbage".to_owned(), FORM),
        ("a.b".to_owned(), FORM),
        ("..".to_owned(), FORM),
        (format!("{good}.x"), FORM),
        (format!("{signed}."), FORM),
        (format!("{good}=="), "a/joe"),
        (
            "A.b.c".to_owned(),
            "Jwt header is an invalid Base64url encoded",
        ),
        (
            format!("{head}.A.c"),
            "Jwt payload is an invalid Base64url encoded",
        ),
        (
            format!("{signed}.A"),
            "Jwt signature is an invalid Base64url encoded",
        ),
        (
            format!("{good} x"),
            "Jwt signature is an invalid Base64url encoded",
        ),
        (
            format!("\"{good}\""),
            "Jwt signature is an invalid Base64url encoded",
        ),
        (format!("{good},Bearer {good}"), FORM),
        (format!("{}AAAA", &good[..good.len() - 4]), FAILS),
        (format!("{signed}.AAAA"), FAILS),
        (format!("{}.x.x", "A".repeat(70_000)), FORM),
    ] {
        let shown = &token[..token.len().min(80)];
        assert_eq!(bearer(&all, &token), expected, "{shown}");
    }
    for (head, claims, expected) in [
        ("{", "{}", "Jwt header is an invalid JSON"),
        ("[]", "{}", "Jwt header is an invalid JSON"),
        (
            r#"{"alg":"none","alg":"RS256"}"#,
            "{}",
            "Jwt header is an invalid JSON",
        ),
        (r#"{"alg":"RS256"}"#, "{", "Jwt payload is an invalid JSON"),
        (r#"{"alg":"RS256"}"#, "[]", "Jwt payload is an invalid JSON"),
        (
            r#"{"alg":"RS256"}"#,
            "{} x",
            "Jwt payload is an invalid JSON",
        ),
        (
            r#"{"alg":"RS256"}"#,
            r#"{"iss":"a","iss":"a"}"#,
            "Jwt payload is an invalid JSON",
        ),
        (
            r#"{"alg":"RS256"}"#,
            r#"{"iss":"a","x":{"y":1,"y":2}}"#,
            "Jwt payload is an invalid JSON",
        ),
        (
            r#"{"alg":"RS256"}"#,
            r#"{"iss":"a","x":1e999}"#,
            "Jwt payload is an invalid JSON",
        ),
    ] {
        assert_eq!(
            bearer(&all, &token(&RSA, head, claims)),
            expected,
            "{head} {claims}"
        );
    }
    // As deep as it gets, in the head too, where nothing is signed yet.
    let deep = format!("{{\"alg\":{}", "[".repeat(40_000));
    assert_eq!(
        bearer(&all, &format!("{}.e30.AAAA", base64(deep))),
        "Jwt header is an invalid JSON"
    );
}

#[test]
fn claims_are_checked_as_envoy_does() {
    let all = [rule("")];
    for (name, value, expected) in [
        ("iss", json!("A"), NO_ISSUER),
        ("iss", json!("a/"), NO_ISSUER),
        ("iss", json!(""), NO_ISSUER),
        ("iss", json!(5), "Jwt payload [iss] field is not a string"),
        (
            "iss",
            json!(["a"]),
            "Jwt payload [iss] field is not a string",
        ),
        ("sub", json!(5), "Jwt payload [sub] field is not a string"),
        (
            "sub",
            json!(null),
            "Jwt payload [sub] field is not a string",
        ),
        ("jti", json!(5), "Jwt payload [jti] field is not a string"),
        (
            "iat",
            json!("5"),
            "Jwt payload [iat] field is not an integer",
        ),
        (
            "iat",
            json!(-5),
            "Jwt payload [iat] field is not a positive 64 bit integer",
        ),
        ("iat", json!(NOW + 1000), "a/joe"),
        (
            "nbf",
            json!(null),
            "Jwt payload [nbf] field is not an integer",
        ),
        (
            "nbf",
            json!(u64::MAX),
            "Jwt payload [nbf] field is not a positive 64 bit integer",
        ),
        ("nbf", json!(i64::MAX), "Jwt not yet valid"),
        ("nbf", json!(NOW + 60), "a/joe"),
        ("nbf", json!(NOW + 61), "Jwt not yet valid"),
        ("nbf", json!(1.5), "a/joe"),
        (
            "exp",
            json!("5"),
            "Jwt payload [exp] field is not an integer",
        ),
        (
            "exp",
            json!(true),
            "Jwt payload [exp] field is not an integer",
        ),
        (
            "exp",
            json!(-5),
            "Jwt payload [exp] field is not a positive 64 bit integer",
        ),
        (
            "exp",
            json!(1e30),
            "Jwt payload [exp] field is not a positive 64 bit integer",
        ),
        (
            "exp",
            json!(u64::MAX),
            "Jwt payload [exp] field is not a positive 64 bit integer",
        ),
        ("exp", json!(i64::MAX), "a/joe"),
        ("exp", json!(NOW - 60), "a/joe"),
        ("exp", json!(NOW - 61), "Jwt is expired"),
        ("exp", json!((NOW - 61) as f64 + 0.9), "Jwt is expired"),
        // To Envoy it is as good as none.
        ("exp", json!(0), "Jwt is expired"),
        (
            "aud",
            json!(5),
            "Jwt payload [aud] field is not a string or string list",
        ),
        (
            "aud",
            json!(null),
            "Jwt payload [aud] field is not a string or string list",
        ),
        (
            "aud",
            json!(["a", 5]),
            "Jwt payload [aud] field is not a string or string list",
        ),
        ("aud", json!([]), "a/joe"),
        ("aud", json!("whoever"), "a/joe"),
    ] {
        let said = bearer(&all, &good(json!({name: value})));
        assert_eq!(said, expected, "{name}: {value}");
    }
    let some = [rule("audiences: ['https://x.test/', y]")];
    const NOT_FOR: &str = "Audiences in Jwt are not allowed";
    for (value, expected) in [
        (json!({"aud": "x.test"}), "a/joe"),
        (json!({"aud": "http://x.test"}), "a/joe"),
        (json!({"aud": "https://x.test//"}), NOT_FOR),
        (json!({"aud": "Y"}), NOT_FOR),
        (json!({"aud": ["z", "y/"]}), "a/joe"),
        (json!({"aud": []}), NOT_FOR),
        (json!({}), NOT_FOR),
        (json!({"aud": "z", "exp": 5}), "Jwt is expired"),
    ] {
        assert_eq!(bearer(&some, &good(value.clone())), expected, "{value}");
    }
    assert_eq!(Refusal::Audience.status(), 403);
    assert_eq!(Refusal::Signature.status(), 401);
    assert_eq!(
        Refusal::Expired.details(),
        "jwt_authn_access_denied{Jwt_is_expired}"
    );
}

#[test]
fn tokens_are_taken_from_their_places_and_off() {
    let good = good(json!({}));
    let (bad, other) = (format!("{}AAAA", &good[..good.len() - 4]), {
        let claims = r#"{"iss":"a","sub":"two"}"#;
        token(&RSA, r#"{"alg":"RS256"}"#, claims)
    });
    let default = "";
    let placed = "fromHeaders: [{name: x-tok}, {name: authorization, prefix: 'Token '}], fromParams: [t], fromCookies: [c]";
    let keeps = "forwardOriginalToken: true";
    for (text, target, headers, expected, left, left_target) in [
        // What is left is written with <G> for the token.
        (default, "/", vec![], "none", "", "/"),
        (
            default,
            "/",
            vec![("authorization", "Bearer <G>")],
            "a/joe",
            "",
            "/",
        ),
        (
            keeps,
            "/?access_token=<G>",
            vec![("authorization", "Bearer <G>")],
            "a/joe",
            "Bearer <G>",
            "/?access_token=<G>",
        ),
        (
            default,
            "/",
            vec![("authorization", "bearer <G>")],
            "none",
            "bearer <G>",
            "/",
        ),
        (
            default,
            "/",
            vec![("authorization", "Basic <G>")],
            "none",
            "Basic <G>",
            "/",
        ),
        (
            default,
            "/",
            vec![("authorization", "XBearer <G>")],
            "a/joe",
            "",
            "/",
        ),
        (
            default,
            "/",
            vec![("authorization", "Bearer  <G>")],
            "a/joe",
            "",
            "/",
        ),
        (
            default,
            "/",
            vec![("authorization", "Bearer ?")],
            FORM,
            "Bearer ?",
            "/",
        ),
        (
            default,
            "/",
            vec![
                ("authorization", "Bearer <G>"),
                ("authorization", "Bearer <G>"),
            ],
            FORM,
            "Bearer <G>|Bearer <G>",
            "/",
        ),
        (
            default,
            "/x?a=1&access_token=<G>&b=%41+2",
            vec![],
            "a/joe",
            "",
            "/x?a=1&b=%41+2",
        ),
        (default, "/x?access_token=<G>", vec![], "a/joe", "", "/x"),
        (default, "/?access%5Ftoken=<G>", vec![], "a/joe", "", "/"),
        (
            default,
            "/?access_token=",
            vec![],
            FORM,
            "",
            "/?access_token=",
        ),
        (
            default,
            "/?access_token",
            vec![],
            FORM,
            "",
            "/?access_token",
        ),
        (
            default,
            "/?Access_Token=<G>",
            vec![],
            "none",
            "",
            "/?Access_Token=<G>",
        ),
        // The header's counts before the query's, and both must be valid.
        (
            default,
            "/?access_token=<O>",
            vec![("authorization", "Bearer <G>")],
            "a/joe",
            "",
            "/",
        ),
        (
            default,
            "/?access_token=<B>",
            vec![("authorization", "Bearer <G>")],
            FAILS,
            "Bearer <G>",
            "/?access_token=<B>",
        ),
        (
            default,
            "/?access_token=<G>",
            vec![("authorization", "Bearer <B>")],
            FAILS,
            "Bearer <B>",
            "/?access_token=<G>",
        ),
        (
            default,
            "/?access_token=<G>&access_token=<O>",
            vec![],
            "a/joe",
            "",
            "/",
        ),
        (
            default,
            "/?access_token=<G>&access_token=<B>",
            vec![],
            FAILS,
            "",
            "/?access_token=<G>&access_token=<B>",
        ),
        (
            placed,
            "/",
            vec![("authorization", "Bearer <B>")],
            "none",
            "Bearer <B>",
            "/",
        ),
        (
            placed,
            "/",
            vec![("authorization", "Token <G>")],
            "a/joe",
            "",
            "/",
        ),
        (placed, "/", vec![("x-tok", "<G>")], "a/joe", "", "/"),
        (
            placed,
            "/",
            vec![("x-tok", "Bearer <G>")],
            "Jwt header is an invalid Base64url encoded",
            "",
            "/",
        ),
        (placed, "/", vec![("x-tok", "")], FORM, "", "/"),
        (
            placed,
            "/",
            vec![("x-tok", "<G>"), ("x-tok", "<B>")],
            FAILS,
            "",
            "/",
        ),
        (placed, "/?t=<G>", vec![], "a/joe", "", "/"),
        (
            placed,
            "/",
            vec![("cookie", "a=b; c=<G>")],
            "a/joe",
            "",
            "/",
        ),
        (placed, "/", vec![("cookie", "c=\"<G>\"")], "a/joe", "", "/"),
        (
            placed,
            "/",
            vec![("cookie", "c=<G>"), ("cookie", "c=<B>")],
            FAILS,
            "",
            "/",
        ),
        (placed, "/", vec![("cookie", "c=")], FORM, "", "/"),
    ] {
        let real = |text: &str| {
            let text = text.replace("<G>", &good).replace("<O>", &other);
            text.replace("<B>", &bad)
        };
        let headers: Vec<(&str, String)> = headers
            .iter()
            .map(|(name, value)| (*name, real(value)))
            .collect();
        let headers: Vec<(&str, &str)> = headers
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        let examined = ask(&[rule(text)], "GET", &real(target), &headers);
        let case = format!("{text} {target} {headers:?}").replace(&good, "G");
        assert_eq!(examined.said(), expected, "{case}");
        let left: Vec<String> = left
            .split('|')
            .filter(|one| !one.is_empty())
            .map(real)
            .collect();
        assert_eq!(examined.header("authorization"), left, "{case}");
        assert_eq!(examined.target.to_string(), real(left_target), "{case}");
        let taken = examined.header("x-tok").is_empty();
        assert!(taken || examined.result.is_err(), "{case}");
    }
    // More than anybody has.
    let headers = vec![("x-tok", good.as_str()); 9];
    let said = ask(&[rule(placed)], "GET", "/", &headers).said();
    assert_eq!(said, FORM);
}

#[test]
fn verified_claims_are_told_and_nobody_elses() {
    let told = [rule(
        "outputPayloadToHeader: x-payload, outputClaimToHeaders: [{header: x-claim, claim: v}, {header: x-deep, claim: n.x.y}]",
    )];
    for (value, expected) in [
        (json!("s"), Some("s")),
        (json!(""), None),
        (json!(null), None),
        (json!(5), Some("5")),
        (
            json!(123_456_789_012_345_678_u64),
            Some("123456789012345678"),
        ),
        (json!(-5), Some("-5.000000")),
        (json!(1.5), Some("1.500000")),
        (json!(2.0), Some("2")),
        (json!(1e30), Some("1000000000000000019884624838656.000000")),
        (json!(true), Some("true")),
        (json!(["a", "b"]), Some("WyJhIiwiYiJd")),
        (json!({"k": [1, "x/+?"]}), Some("eyJrIjpbMSwieC8rPyJdfQ==")),
        (json!([]), Some("W10=")),
        // Two fields, or two requests, of one claim.
        (json!("a\r\nx-admin: yes"), None),
        (json!("a\u{0}b"), None),
    ] {
        let token = good(json!({"v": value, "n": {"x": {"y": "deep"}}, "n.x.y": "dotted"}));
        let payload = token.split('.').nth(1).unwrap();
        let bearer = format!("Bearer {token}");
        let examined = ask(
            &told,
            "GET",
            "/",
            &[
                ("authorization", &bearer),
                ("x-payload", "evil"),
                ("x-claim", "evil"),
                ("x-claim", "evil"),
            ],
        );
        assert_eq!(examined.header("x-payload"), [payload]);
        assert_eq!(
            examined.header("x-claim"),
            Vec::from_iter(expected),
            "{value}"
        );
        assert_eq!(examined.header("x-deep"), ["deep"]);
        assert!(examined.header("x-admin").is_empty());
    }
    // Without a token, or in a preflight, whose token is not looked at.
    let preflight = [
        ("origin", "http://a"),
        ("access-control-request-method", "GET"),
        ("authorization", "Bearer x"),
        ("x-claim", "evil"),
    ];
    for (method, headers) in [
        ("GET", &[("x-claim", "evil"), ("x-payload", "evil")][..]),
        ("OPTIONS", &preflight),
    ] {
        let examined = ask(&told, method, "/", headers);
        assert_eq!(examined.said(), "none");
        assert!(examined.header("x-claim").is_empty());
        assert!(examined.header("x-payload").is_empty());
    }
    assert_eq!(ask(&told, "GET", "/", &preflight).said(), FORM);
}

#[test]
fn of_several_rules_one_must_take_what_is_there() {
    let b_keys = set(&[P256.public(json!({}))]);
    let b = |text: &str| {
        let mut rule = rule(text);
        rule.issuer = "b".into();
        rule.keys = Source::Given(Arc::new(Keys::read(b_keys.as_bytes()).unwrap()));
        rule
    };
    let a = good(json!({}));
    let of_b = token(&P256, r#"{"alg":"ES256"}"#, r#"{"iss":"b","sub":"joe"}"#);
    let of_c = good(json!({"iss": "c"}));
    let bad_a = format!("{}AAAA", &a[..a.len() - 4]);
    let bad_b = token(&ED, r#"{"alg":"ES256"}"#, r#"{"iss":"b","sub":"joe"}"#);
    let same = [
        rule("outputPayloadToHeader: x-payload"),
        b("outputClaimToHeaders: [{header: x-claim, claim: sub}]"),
    ];
    for (token, expected) in [
        (&a, "a/joe"),
        (&of_b, "b/joe"),
        (&of_c, NO_ISSUER),
        (&bad_a, FAILS),
        (&bad_b, FAILS),
    ] {
        assert_eq!(bearer(&same, token), expected);
        let bearer = format!("Bearer {token}");
        let examined = ask(
            &same,
            "GET",
            "/",
            &[
                ("authorization", &bearer),
                ("x-payload", "evil"),
                ("x-claim", "evil"),
            ],
        );
        let evil = [examined.header("x-payload"), examined.header("x-claim")].concat();
        assert!(!evil.contains(&"evil"), "{expected}");
    }
    // Of two issuers at one place each, where Envoy lets one pass.
    let target = format!("/?access_token={of_b}");
    let header = format!("Bearer {a}");
    assert_eq!(
        ask(&same, "GET", &target, &[("authorization", &header)]).said(),
        NO_ISSUER
    );

    let apart = [rule("fromHeaders: [{name: x-tok}]"), b("fromParams: [t]")];
    for (header, parameter, expected) in [
        (None, None, "none"),
        (Some(&a), None, "a/joe"),
        (None, Some(&of_b), "b/joe"),
        (Some(&a), Some(&of_b), "a/joe"),
        (Some(&bad_a), Some(&of_b), "b/joe"),
        (Some(&a), Some(&bad_b), "a/joe"),
        (Some(&bad_a), None, FAILS),
        (None, Some(&bad_b), FAILS),
        (Some(&of_b), None, NO_ISSUER),
        (None, Some(&a), NO_ISSUER),
        (Some(&of_b), Some(&bad_b), FAILS),
    ] {
        let target = parameter.map_or("/".to_owned(), |one| format!("/?t={one}"));
        let headers: Vec<(&str, &str)> = header.iter().map(|one| ("x-tok", one.as_str())).collect();
        assert_eq!(ask(&apart, "GET", &target, &headers).said(), expected);
    }
}

#[test]
fn without_keys_nothing_is_valid() {
    let fetched = [rule("jwksUri: 'http://keys.test/', timeout: 2s")];
    let Source::Fetched(origin) = &fetched[0].keys else {
        panic!("{:?}", fetched[0].keys);
    };
    assert_eq!(origin.location, Location::Keys("http://keys.test/".into()));
    assert_eq!(origin.timeout.as_secs(), 2);
    assert_eq!(
        bearer(&fetched, &good(json!({}))),
        "Jwks remote fetch is failed"
    );
    assert_eq!(ask(&fetched, "GET", "/", &[]).said(), "none");
    let nonsense = [rule("jwks: '{\"keys\": []}'")];
    assert_eq!(
        bearer(&nonsense, &good(json!({}))),
        "Jwks remote fetch is failed"
    );
    let mut discovered: JwtRule = serde_yaml::from_str("issuer: 'https://id.test'").unwrap();
    discovered.jwks.clear();
    let object = fetched[0].object.clone();
    let Source::Fetched(origin) = Rule::compile(object, &discovered).keys else {
        panic!("nothing to fetch");
    };
    assert_eq!(origin.location, Location::Issuer("https://id.test".into()));
}

proptest! {
    /// Whatever is said, nothing is believed that the issuer has not signed, and nothing panics.
    #[test]
    fn no_change_of_a_token_is_valid(at in 0..400_usize, to in "[A-Za-z0-9_.-]", cut in 0..400_usize) {
        let all = [rule("")];
        let good = good(json!({}));
        let mut changed = good.clone();
        let at = at % good.len();
        changed.replace_range(at..=at, &to);
        if changed != good {
            prop_assert_ne!(bearer(&all, &changed), "a/joe");
        }
        prop_assert_ne!(bearer(&all, &good[..cut % good.len()]), "a/joe");
    }

    #[test]
    fn no_text_is_believed(token in "\\PC{0,200}", query in "[ -~&&[^#]]{0,100}") {
        let all = [rule("fromHeaders: [{name: x-tok}, {name: authorization, prefix: B}], fromParams: [t], fromCookies: [c]")];
        let value = String::from_utf8_lossy(token.as_bytes()).replace(|c: char| c.is_control(), "");
        if let (Ok(value), Ok(target)) = (HeaderValue::from_str(&value), format!("/?{query}").parse::<Uri>()) {
            let mut headers = HeaderMap::new();
            for name in ["x-tok", "authorization", "cookie"] {
                headers.append(HeaderName::from_static(name), value.clone());
            }
            let mut target = target;
            let subject = Subject { method: &Method::GET, target: &mut target, headers: &mut headers };
            let known = Known { now: NOW, keys: &|_| None };
            prop_assert!(!matches!(examine(&all, subject, &known), Ok(Some(_))));
        }
    }
}
