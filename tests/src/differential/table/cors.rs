//! CORS: preflights and what follows them.

use crate::differential::scenario::{Scenario, http};

/// A rule with this CORS policy.
fn cors(name: &str, policy: &str) -> Scenario {
    http(name, &format!("{{corsPolicy: {{{policy}}}, TO}}"))
}

const FULL: &str = "allowOrigins: [{exact: 'https://a.b'}], allowMethods: [GET, PUT], \
                    allowHeaders: [x-a, x-b], exposeHeaders: [x-c], maxAge: 24h, \
                    allowCredentials: true";
const PREFLIGHT: &str = "OPTIONS / | origin: https://a.b | access-control-request-method: PUT \
                         | access-control-request-headers: x-q";

#[rustfmt::skip]
pub(super) fn table() -> Vec<Scenario> {
    vec![
        cors("cors-preflight", FULL).ask(PREFLIGHT, "200 - x0 access-control-allow-origin=https://a.b access-control-allow-methods=GET,PUT access-control-allow-headers=x-a,x-b access-control-max-age=86400 access-control-allow-credentials=true details=cors_response"),
        cors("cors-preflight-http2", FULL).ask(&format!("h2 {PREFLIGHT}"), "200 x0 access-control-allow-origin=https://a.b"),
        cors("cors-preflight-unmatched", FULL).ask("OPTIONS / | origin: https://x.y | access-control-request-method: PUT", "200 x1 !access-control-allow-origin"),
        cors("cors-preflight-ignored", &format!("{FULL}, unmatchedPreflights: IGNORE")).ask("OPTIONS / | origin: https://x.y | access-control-request-method: PUT", "200 x0 !access-control-allow-origin"),
        cors("cors-preflight-forward", &format!("{FULL}, unmatchedPreflights: FORWARD")).ask("OPTIONS / | origin: https://x.y | access-control-request-method: PUT", "200 x1"),
        cors("cors-no-request-method", FULL).ask("OPTIONS / | origin: https://a.b", "200 x1 access-control-allow-origin=https://a.b"),
        cors("cors-actual", FULL).ask("GET / | origin: https://a.b", "200 x1 access-control-allow-origin=https://a.b access-control-expose-headers=x-c access-control-allow-credentials=true !access-control-allow-methods"),
        cors("cors-actual-unmatched", FULL).ask("GET / | origin: https://x.y", "200 x1 !access-control-allow-origin"),
        cors("cors-no-origin", FULL).ask("GET /", "200 x1 !access-control-allow-origin").ask("GET / | origin: ", "200 x1 !access-control-allow-origin"),
        cors("cors-overwrites", FULL).up("200,h.access-control-allow-origin=z,h.access-control-expose-headers=z").ask("GET / | origin: https://a.b", "200 access-control-allow-origin=https://a.b access-control-expose-headers=x-c").ask("GET / | origin: https://x.y", "200 access-control-allow-origin=z"),
        cors("cors-any-origin", "allowOrigins: [{exact: '*'}], allowMethods: ['*'], allowHeaders: ['*']").ask(PREFLIGHT, "200 x0 access-control-allow-origin=https://a.b"),
        cors("cors-prefix", "allowOrigins: [{prefix: 'https://a'}]").ask("GET / | origin: https://a.b", "200 access-control-allow-origin=https://a.b").ask("GET / | origin: http://a.b", "200 !access-control-allow-origin"),
        cors("cors-regex", "allowOrigins: [{regex: 'https://.*[.]b'}]").ask("GET / | origin: https://a.b", "200 access-control-allow-origin=https://a.b").ask("GET / | origin: https://a.bc", "200 !access-control-allow-origin"),
        cors("cors-no-credentials", "allowOrigins: [{exact: 'https://a.b'}], allowCredentials: false").ask("GET / | origin: https://a.b", "200 !access-control-allow-credentials"),
        cors("cors-local-reply", FULL).up("refuse").ask("GET / | origin: https://a.b", "503 access-control-allow-origin=https://a.b"),
        http("cors-behind-fault", &format!("{{fault: {{abort: {{httpStatus: 418, percentage: {{value: 100}}}}}}, corsPolicy: {{{FULL}}}, TO}}")).ask(PREFLIGHT, "418 FI x0 !access-control-allow-origin"),
        http("cors-headers", &format!("{{headers: {{response: {{set: {{x-z: z}}}}}}, corsPolicy: {{{FULL}}}, TO}}")).ask(PREFLIGHT, "200 x0"),
    ]
}
