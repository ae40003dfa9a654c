//! A tour of the life of a session: `cargo run --example tour`
//!
//! It needs a daemon at 127.0.0.1:50051 (`sessiond serve --dev`), or at the address in the
//! first argument. It acts as a frontend that serves one browser, with the operations as they
//! are; an application uses the layer above them (`clients/rust`).

use sessiond_client::{Client, Credential, Data, Result, WriteOptions};

/// What a browser keeps of a Set-Cookie value: the name and the value.
fn kept(set_cookie: &[String]) -> String {
    set_cookie[0].split(';').next().unwrap_or_default().to_owned()
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:50051".to_owned());
    let sessiond = Client::new(address)?;

    println!("A visitor comes without a cookie. Nothing is stored for it:");
    println!("  {:?}\n", sessiond.resolve(&Credential::cookie_header("")).await?.state);

    println!("It puts something into its cart. That creates a session:");
    let mut set = Data::new();
    set.insert("cart", ["a book"])?;
    let written = sessiond.write(&Credential::NONE, set.into()).await?;
    println!("  Set-Cookie: {}\n", written.set_cookie[0]);
    let anonymous = kept(&written.set_cookie);

    println!("It logs in. The session gets a new id, the cart stays:");
    let login =
        WriteOptions { principal: Some("ann".to_owned()), roll: true, ..Default::default() };
    let written = sessiond.write(&Credential::cookie_header(anonymous.clone()), login).await?;
    let cookie = kept(&written.set_cookie);
    for (who, cookie) in [("the new cookie", &cookie), ("the old cookie", &anonymous)] {
        let found = sessiond.resolve(&Credential::cookie_header(cookie.clone())).await?;
        let data = found.session.map(|session| session.data.to_json());
        println!("  {who}: {:?} {}", found.state, data.unwrap_or_default());
    }

    println!("\nIt logs out. Nothing brings the session back:");
    let credential = Credential::cookie_header(cookie);
    println!("  Set-Cookie: {}", sessiond.destroy(&credential).await?.set_cookie[0]);
    let mut late = Data::new();
    late.insert("late", true)?;
    match sessiond.write(&credential, late.into()).await {
        Ok(_) => println!("  error: a late Write was accepted"),
        Err(error) => println!("  a late Write: {}, {error}", error.reason()),
    }
    sessiond.close().await;
    Ok(())
}
