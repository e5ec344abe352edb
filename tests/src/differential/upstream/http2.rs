//! An HTTP/2 upstream by script, down to the frames that end a stream.

use bytes::Bytes;
use h2::{Reason, RecvStream, server::SendResponse};
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use tokio::{net::TcpStream, task::JoinSet};

use super::Turn;
use crate::differential::{
    book::Seen,
    script::{Answer, End, Head},
};

/// What a stream does to its connection.
enum Next {
    Nothing,
    GoAway(Open),
    Reset(Open),
}

/// A stream without an end yet: let go of, it would be reset by itself before its connection is.
type Open = Box<dyn std::any::Any + Send>;

pub(super) async fn play(turn: Turn, stream: TcpStream) {
    // The descriptor is kept, so that an RST can be sent under the library's hands.
    let second = socket2::SockRef::from(&stream).try_clone();
    let Ok(mut connection) = h2::server::handshake(stream).await else {
        return;
    };
    let (mut streams, mut open) = (JoinSet::new(), Vec::new());
    loop {
        tokio::select! {
            accepted = connection.accept() => match accepted {
                Some(Ok((request, respond))) => {
                    streams.spawn(exchange(turn.clone(), request, respond));
                }
                _ => return,
            },
            Some(next) = streams.join_next() => match next {
                Ok(Next::GoAway(stream)) => {
                    open.push(stream);
                    connection.abrupt_shutdown(Reason::NO_ERROR);
                }
                Ok(Next::Reset(stream)) => {
                    open.push(stream);
                    if let Ok(socket) = &second {
                        let _ = socket.set_linger(Some(std::time::Duration::ZERO));
                    }
                    drop(connection);
                    return;
                }
                Ok(Next::Nothing) | Err(_) => {}
            },
        }
    }
}

async fn exchange(
    turn: Turn,
    request: http::Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) -> Next {
    let (head, mut body) = request.into_parts();
    let mut seen = Seen::new(turn.role.endpoint, "HTTP/2");
    seen.method = head.method.to_string();
    seen.path = head
        .uri
        .path_and_query()
        .map(ToString::to_string)
        .unwrap_or_default();
    if let Some(authority) = head.uri.authority() {
        seen.headers
            .push((":authority".into(), authority.to_string()));
    }
    if let Some(protocol) = head.extensions.get::<h2::ext::Protocol>() {
        seen.headers
            .push((":protocol".into(), protocol.as_str().into()));
    }
    seen.headers.extend(pairs(&head.headers));
    let (number, answer) = turn.arrived(seen);
    let note = |note: &dyn Fn(&mut Seen)| turn.book.note(&turn.entry, number, |seen| note(seen));
    if !answer.early {
        while let Some(data) = body.data().await {
            let Ok(data) = data else {
                note(&|seen| (seen.complete, seen.given_up) = (true, true));
                return Next::Nothing;
            };
            let _ = body.flow_control().release_capacity(data.len());
            note(&|seen| seen.body.extend_from_slice(&data));
        }
        if let Ok(Some(trailers)) = body.trailers().await {
            note(&|seen| seen.trailers.extend(pairs(&trailers)));
        }
    }
    let wait = match answer.head {
        Head::Never => crate::PATIENCE,
        _ => answer.wait,
    };
    let given_up = tokio::select! {
        biased;
        () = tokio::time::sleep(wait) => false,
        _ = std::future::poll_fn(|context| respond.poll_reset(context)) => true,
    };
    note(&|seen| (seen.complete, seen.given_up) = (true, given_up));
    if given_up {
        return Next::Nothing;
    }
    match answer.head {
        Head::Status(status) => respond_with(respond, status, answer).await,
        Head::Refused => end(respond, Reason::REFUSED_STREAM),
        Head::Cancel => end(respond, Reason::CANCEL),
        Head::Reset => end(respond, Reason::INTERNAL_ERROR),
        Head::Garbage => end(respond, Reason::PROTOCOL_ERROR),
        Head::GoAway => Next::GoAway(Box::new(respond)),
        Head::Close | Head::Half | Head::Never => Next::Reset(Box::new(respond)),
    }
}

fn end(mut respond: SendResponse<Bytes>, reason: Reason) -> Next {
    respond.send_reset(reason);
    Next::Nothing
}

async fn respond_with(mut respond: SendResponse<Bytes>, status: u16, answer: Answer) -> Next {
    let mut response = Response::builder().status(status);
    for (name, value) in &answer.headers {
        response = response.header(name, value);
    }
    let Ok(response) = response.body(()) else {
        return Next::Nothing;
    };
    let alone = answer.body.is_empty() && answer.trailers.is_empty() && answer.end == End::Whole;
    let Ok(mut stream) = respond.send_response(response, alone) else {
        return Next::Nothing;
    };
    if alone {
        return Next::Nothing;
    }
    tokio::time::sleep(answer.pause).await;
    let mut body = answer.body;
    if answer.end != End::Whole {
        body.truncate(body.len() / 2);
    }
    let more = answer.end != End::Whole || !answer.trailers.is_empty();
    let _ = stream.send_data(Bytes::from(body), !more);
    match answer.end {
        End::Whole if more => {
            let fields = answer.trailers.iter().filter_map(|(name, value)| {
                let name = HeaderName::try_from(name).ok()?;
                Some((name, HeaderValue::try_from(value).ok()?))
            });
            let _ = stream.send_trailers(fields.collect::<HeaderMap>());
        }
        End::Whole => {}
        End::Cut | End::Abort | End::Cancel => {
            // The frame of data goes first.
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            match answer.end {
                End::Cut => return Next::Reset(Box::new(stream)),
                End::Cancel => stream.send_reset(Reason::CANCEL),
                _ => stream.send_reset(Reason::INTERNAL_ERROR),
            }
        }
        End::Hang => {
            let _ = std::future::poll_fn(|context| stream.poll_reset(context)).await;
        }
    }
    Next::Nothing
}

fn pairs(headers: &HeaderMap) -> Vec<(String, String)> {
    let pair = |(name, value): (&HeaderName, &HeaderValue)| {
        (
            name.to_string(),
            String::from_utf8_lossy(value.as_bytes()).into_owned(),
        )
    };
    headers.iter().map(pair).collect()
}
