//! A tour of the life of a session: `cargo run --example tour`
//!
//! It needs a daemon at 127.0.0.1:50051 (`sessiond serve --dev`), or at the address in the
//! first argument. It acts as a frontend that serves one browser.

use sessiond::grpc::pb::{
    Credential, DestroyRequest, ResolveRequest, WriteRequest, credential::Kind,
    session_service_client::SessionServiceClient,
};

/// What a frontend passes to the daemon: the Cookie header of the request.
fn credential(cookie: &str) -> Option<Credential> {
    Some(Credential { kind: Some(Kind::CookieHeader(cookie.to_owned().into())) })
}

/// What a browser keeps of a Set-Cookie value: the name and the value.
fn kept(set_cookie: &[String]) -> String {
    set_cookie[0].split(';').next().unwrap_or_default().to_owned()
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:50051".to_owned());
    let mut sessiond = SessionServiceClient::connect(format!("http://{address}")).await?;

    println!("A visitor comes without a cookie. Nothing is stored for it:");
    let request = ResolveRequest { credential: credential(""), ..Default::default() };
    println!("  {}\n", sessiond.resolve(request).await?.into_inner().state().as_str_name());

    println!("It puts something into its cart. That creates a session:");
    let set = r#"{"cart":["a book"]}"#.into();
    let written = sessiond.write(WriteRequest { set, ..Default::default() }).await?.into_inner();
    println!("  Set-Cookie: {}\n", written.set_cookie[0]);
    let anonymous = kept(&written.set_cookie);

    println!("It logs in. The session gets a new id, the cart stays:");
    let login = WriteRequest {
        credential: credential(&anonymous),
        principal: Some("ann".into()),
        roll: true,
        ..Default::default()
    };
    let cookie = kept(&sessiond.write(login).await?.into_inner().set_cookie);
    for (who, cookie) in [("the new cookie", &cookie), ("the old cookie", &anonymous)] {
        let request = ResolveRequest { credential: credential(cookie), ..Default::default() };
        let answer = sessiond.resolve(request).await?.into_inner();
        let data = answer.session.as_ref().map(|session| String::from_utf8_lossy(&session.data));
        println!("  {who}: {} {}", answer.state().as_str_name(), data.unwrap_or_default());
    }

    println!("\nIt logs out. Nothing brings the session back:");
    let request = DestroyRequest { credential: credential(&cookie), ..Default::default() };
    println!("  Set-Cookie: {}", sessiond.destroy(request).await?.into_inner().set_cookie[0]);
    let late = WriteRequest {
        credential: credential(&cookie),
        set: r#"{"late":true}"#.into(),
        ..Default::default()
    };
    match sessiond.write(late).await {
        Ok(_) => println!("  error: a late Write was accepted"),
        Err(status) => println!("  a late Write: {:?}, {}", status.code(), status.message()),
    }
    Ok(())
}
