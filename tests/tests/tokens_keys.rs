//! Keys of tokens' issuers that are fetched: from servers that come and go, and say what they like.

mod jwt;
mod outside;

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
};

use anyhow::{Result, ensure};
use aquifer_tests::{
    Pod, World,
    client::{Http, Reply, request, whole},
    echo::Echo,
};
use bytes::Bytes;
use http::Response;
use http_body_util::{BodyExt as _, Full};
use jwt::{Issuer, policies};
use outside::{Authority, Server as Secured};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

const PORT: u16 = 8080;
/// Where the keys are.
const KEYS: u16 = 8000;
/// Fetched again every second, so that a test sees it.
const OFTEN: &[&str] = &["--jwks-refresh", "1"];
const UNKNOWN: &str = "Jwks remote fetch is failed";

/// A server whose answers are changed while it runs. One that is empty never comes.
struct Server {
    answer: Arc<Mutex<(u16, Bytes)>>,
    _running: Echo,
}

impl Server {
    fn on(listener: TcpListener) -> Self {
        let answer = Arc::new(Mutex::new((503, Bytes::new())));
        let own = Arc::clone(&answer);
        let running = Echo::on(listener, move |_| {
            let (status, body) = own
                .lock()
                .map_or_else(|_| (500, Bytes::new()), |one| one.clone());
            Box::pin(async move {
                if status == 0 {
                    std::future::pending::<()>().await;
                }
                let body = Full::new(body).map_err(|never| match never {}).boxed();
                let mut response = Response::new(body);
                *response.status_mut() = status.try_into().unwrap_or_default();
                response
            })
        });
        Self {
            answer,
            _running: running,
        }
    }

    fn set(&self, status: u16, body: impl Into<Bytes>) {
        *self.answer.lock().expect("nobody panics with it") = (status, body.into());
    }
}

fn takes(rule: &str) -> String {
    policies(&[format!("RequestAuthentication jwt: {{jwtRules: [{rule}]}}")])
}

async fn ask(pod: &Pod, world: &World, token: &str) -> Result<Reply> {
    let mut http = Http::connect(pod, world.server.at(PORT)).await?;
    let ask = request("GET", "app", "/").header("authorization", format!("Bearer {token}"));
    http.exchange(ask.body(whole(""))?).await
}

/// Waits for what `status` says of the one issuer.
async fn told(world: &World, wanted: impl Fn(&Value) -> bool) -> Result<()> {
    let one = |status: &Value| wanted(&status["issuers"][0]);
    world.proxy.until("/status", one).await.map(|_| ())
}

#[tokio::test]
async fn keys_come_late_are_replaced_and_outlive_an_outage() -> Result<()> {
    let (first, second) = (Issuer::rsa("a", "1"), Issuer::ec("a", "2"));
    let url = format!("http://127.0.0.1:{KEYS}/keys");
    let text = takes(&format!("{{issuer: a, jwksUri: '{url}', timeout: 1s}}"));
    let world = World::with(OFTEN, |manifests| manifests).await?;
    let put = async |text: String| {
        let put = || world.config.put("policies.yaml", text);
        world.proxy.after(put).await
    };
    put(text).await?;
    let stranger = world.lab.pod("stranger")?;
    let _app = Echo::start(&world.server, PORT, "server")?;
    let (old, new) = (first.token(json!({})), second.token(json!({})));
    let says = async |token: &str, status: u16, text: &str| {
        let reply = ask(&stranger, &world, token).await?;
        let said = if reply.status == 200 {
            String::new()
        } else {
            reply.text()
        };
        ensure!(
            (reply.status, said.as_str()) == (status, text),
            "{} {said}",
            reply.status
        );
        anyhow::Ok(())
    };
    // Nobody there, and then somebody who has no answer, nonsense, or far too much of one.
    told(&world, |one| one["failures"].as_u64() > Some(0)).await?;
    says(&old, 401, UNKNOWN).await?;
    let mut plain = Http::connect(&stranger, world.server.at(PORT)).await?;
    assert_eq!(plain.get("app", "/").await?.status, 200, "without a token");
    let listener = world
        .lab
        .node
        .listen(SocketAddr::from((Ipv4Addr::LOCALHOST, KEYS)))?;
    let server = Server::on(listener);
    let wrong: [(u16, Bytes, &str); 5] = [
        (503, Bytes::new(), "503"),
        (200, "<html>".into(), "not JSON"),
        (
            200,
            "{\"keys\":[{\"kty\":\"oct\",\"k\":\"c2VjcmV0\"}]}".into(),
            "no key",
        ),
        (200, vec![b' '; 10 << 20].into(), "larger than"),
        (0, Bytes::new(), "within 1s"),
    ];
    for (status, body, error) in &wrong {
        server.set(*status, body.clone());
        told(&world, |one| {
            one["error"]
                .as_str()
                .is_some_and(|text| text.contains(error))
        })
        .await?;
        says(&old, 401, UNKNOWN).await?;
    }
    // Keys at last.
    server.set(200, first.keys());
    told(&world, |one| one["keys"] == 1 && one["error"].is_null()).await?;
    says(&old, 200, "").await?;
    says(
        &new,
        401,
        "Jwks doesn't have key to match kid or alg from Jwt",
    )
    .await?;
    // Another key beside the first, then in its place.
    server.set(
        200,
        json!({"keys": [first.key(), second.key()]}).to_string(),
    );
    told(&world, |one| one["keys"] == 2).await?;
    says(&old, 200, "").await?;
    says(&new, 200, "").await?;
    server.set(200, second.keys());
    told(&world, |one| one["keys"] == 1).await?;
    says(
        &old,
        401,
        "Jwks doesn't have key to match kid or alg from Jwt",
    )
    .await?;
    says(&new, 200, "").await?;
    // What was there holds, whatever is answered now.
    for (status, body, error) in &wrong {
        server.set(*status, body.clone());
        told(&world, |one| {
            one["error"]
                .as_str()
                .is_some_and(|text| text.contains(error))
        })
        .await?;
        says(&new, 200, "").await?;
    }
    let (status, out, _) = world.proxy.command(&["status"])?;
    ensure!(
        status.success() && out.contains(&format!("keys of {url}: 1 in force (error: ")),
        "{out}"
    );
    // A rule that names other keys has none of these.
    let other = takes("{issuer: a, jwksUri: 'http://127.0.0.1:1/', timeout: 1s}");
    put(other).await?;
    says(&new, 401, UNKNOWN).await
}

#[tokio::test]
async fn keys_come_from_a_service_of_the_mesh_and_by_discovery() -> Result<()> {
    let issuer = Issuer::ec("http://keys.default.svc.cluster.local:8000/realm", "");
    let issuer = &issuer;
    let world = World::with(OFTEN, |manifests| {
        manifests
            .service("keys", &[], &[("http", KEYS, 8001)], &[("app", "client")])
            .yaml(takes(&format!("{{issuer: '{}'}}", issuer.name)))
    })
    .await?;
    let stranger = world.lab.pod("stranger")?;
    let _app = Echo::start(&world.server, PORT, "server")?;
    // A pod of the mesh that nobody's resolver here knows by that name.
    let set = issuer.keys();
    let _keys = Echo::answering(&world.client, 8001, move |call| {
        let host = call.request.headers().get("host").cloned();
        let host = host.and_then(|host| Some(host.to_str().ok()?.to_owned()));
        let answer = match call.request.uri().path() {
            "/realm/.well-known/openid-configuration" => {
                let base = format!("http://{}", host.unwrap_or_default());
                json!({"issuer": format!("{base}/realm"), "jwks_uri": format!("{base}/keys")})
                    .to_string()
            }
            "/keys" => set.clone(),
            _ => String::new(),
        };
        Box::pin(async move {
            Response::new(Full::from(answer).map_err(|never| match never {}).boxed())
        })
    })?;
    told(&world, |one| one["keys"] == 1).await?;
    let reply = ask(&stranger, &world, &issuer.token(json!({}))).await?;
    assert_eq!(reply.status, 200, "{}", reply.text());
    Ok(())
}

/// Over HTTPS, vouched for by an authority in a file that may change: keys come from whom it vouches for,
/// and from nobody else, wherever that sends.
#[tokio::test]
async fn keys_come_over_https_from_whom_the_roots_vouch_for() -> Result<()> {
    const SECURE: u16 = 8443;
    let (own, foreign) = (Authority::new("own")?, Authority::new("foreign")?);
    let folder = tempfile::tempdir()?;
    let roots = folder.path().join("roots.pem");
    let vouch = |authority: &Authority| {
        let new = folder.path().join("new");
        std::fs::write(&new, authority.pem())?;
        std::fs::rename(new, &roots)
    };
    vouch(&foreign)?;
    let path = roots.to_string_lossy();
    let arguments = [OFTEN, &["--tls-roots", &path]].concat();
    let world = World::with(&arguments, |manifests| manifests).await?;
    let (stranger, server) = (world.lab.pod("stranger")?, world.lab.pod("issuer")?);
    let address = server.v4.to_string();
    let signed = own.sign(&[&address])?.server(None, &["http/1.1"])?;
    let answer = Arc::new(Mutex::new(String::new()));
    let says = |text: String| *answer.lock().expect("nobody panics with it") = text;
    let script = {
        let answer = Arc::clone(&answer);
        move |mut stream: tokio_rustls::server::TlsStream<tokio::net::TcpStream>| {
            let answer = Arc::clone(&answer);
            async move {
                let mut head = [0; 4096];
                let _ = stream.read(&mut head).await;
                let text = answer
                    .lock()
                    .map_or_else(|_| String::new(), |one| one.clone());
                let _ = stream.write_all(text.as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        }
    };
    let ok = |body: &str| {
        format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let (first, second) = (Issuer::ec("a", "1"), Issuer::rsa("a", "2"));
    says(ok(&first.keys()));
    let secure = Secured::start(&server, SECURE, signed, script)?;
    let url = format!("https://{address}:{SECURE}/keys");
    let rule = format!("{{issuer: a, jwksUri: '{url}', timeout: 5s}}");
    let put = || world.config.put("policies.yaml", takes(&rule));
    world.proxy.after(put).await?;
    let _app = Echo::start(&world.server, PORT, "server")?;
    let error = async |part: &str| {
        let is = |one: &Value| {
            one["error"]
                .as_str()
                .is_some_and(|text| text.contains(part))
        };
        told(&world, is).await
    };
    let status = async |issuer: &Issuer| {
        let reply = ask(&stranger, &world, &issuer.token(json!({}))).await?;
        anyhow::Ok(reply.status)
    };
    // Whom the roots do not vouch for is not asked.
    error("TLS: ").await?;
    assert_eq!(status(&first).await?, 401);
    assert_eq!(secure.handshakes(), 0);
    // Another root in the same file.
    vouch(&own)?;
    told(&world, |one| one["keys"] == 1 && one["error"].is_null()).await?;
    assert_eq!(status(&first).await?, 200);
    // To plain text nobody follows, nor in circles; what was there holds.
    for (place, part) in [
        (format!("http://{address}:1/keys"), "where nobody follows"),
        (url.clone(), "where nobody follows"),
        (format!("https://127.0.0.1:{SECURE}/keys"), "127.0.0.1"),
    ] {
        says(format!(
            "HTTP/1.1 302 Found\r\nlocation: {place}\r\ncontent-length: 0\r\n\r\n"
        ));
        error(part).await?;
        assert_eq!(status(&first).await?, 200, "{place}");
    }
    // Another key in its place.
    says(ok(&second.keys()));
    told(&world, |one| one["error"].is_null()).await?;
    assert_eq!((status(&first).await?, status(&second).await?), (401, 200));
    // Nobody there any more.
    secure.stop().await;
    error("refused").await?;
    assert_eq!((status(&first).await?, status(&second).await?), (401, 200));
    Ok(())
}
