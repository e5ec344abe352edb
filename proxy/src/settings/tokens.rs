//! How often the keys of tokens' issuers are fetched.

use std::time::Duration;

/// Settings of the keys that RequestAuthentications name by URL.
#[derive(Clone, Debug, clap::Args)]
pub struct Tokens {
    /// How often the keys of tokens' issuers (`jwksUri`) are fetched again, in seconds.
    #[arg(
        long,
        value_name = "SECONDS",
        env = "AQUIFER_JWKS_REFRESH",
        default_value = "1200",
        value_parser = super::certificates::life
    )]
    pub jwks_refresh: Duration,
}
