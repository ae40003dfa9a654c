//! Who may call: the tokens and certificates that callers prove themselves with, and the roles
//! that these give them.

use std::{fmt, net::SocketAddr, str::FromStr, sync::Arc};

use sha2::{Digest, Sha256};
use subtle::{ConditionallySelectable, ConstantTimeEq};
use zeroize::Zeroizing;

use super::fault::Reason;

/// What a listener is for, and so what its callers must be admitted to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The sessions of the credentials that the caller presents.
    Frontend,
    /// All sessions, and the daemon itself.
    Admin,
}

impl Role {
    /// The word in the configuration and in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Frontend => "frontend",
            Self::Admin => "admin",
        }
    }
}

/// What a caller is admitted to: at least one role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Roles {
    frontend: bool,
    admin: bool,
}

impl Roles {
    /// Every role.
    pub const ALL: Self = Self { frontend: true, admin: true };

    /// Whether the role is one of them.
    pub fn has(self, role: Role) -> bool {
        match role {
            Role::Frontend => self.frontend,
            Role::Admin => self.admin,
        }
    }

    fn and(self, other: Self) -> Self {
        Self { frontend: self.frontend || other.frontend, admin: self.admin || other.admin }
    }
}

/// The text names no role, or one that does not exist, or one twice.
#[derive(Debug, PartialEq, Eq)]
pub struct NoRoles;

impl FromStr for Roles {
    type Err = NoRoles;

    /// `frontend`, `admin` or `frontend+admin`.
    fn from_str(text: &str) -> Result<Self, NoRoles> {
        let mut roles = Self { frontend: false, admin: false };
        for word in text.split('+') {
            let role = match word {
                "frontend" => &mut roles.frontend,
                "admin" => &mut roles.admin,
                _ => return Err(NoRoles),
            };
            if std::mem::replace(role, true) {
                return Err(NoRoles);
            }
        }
        Ok(roles)
    }
}

/// Who calls, as the log names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// Whoever reaches the listener: nothing was asked of the caller.
    Anybody,
    /// The name of a token, or a name in the caller's certificate.
    Named(Arc<str>),
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Anybody => "anybody",
            Self::Named(name) => name,
        })
    }
}

/// The other end of a connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Remote {
    /// There is no connection, or the system does not say.
    #[default]
    Unknown,
    /// A host.
    Tcp(SocketAddr),
    /// A process on this machine.
    Unix {
        /// Its user.
        uid: u32,
        /// Its number, if the system knows it.
        pid: Option<i32>,
    },
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("unknown"),
            Self::Tcp(address) => address.fmt(f),
            Self::Unix { uid, pid: None } => write!(f, "unix:uid={uid}"),
            Self::Unix { uid, pid: Some(pid) } => write!(f, "unix:uid={uid},pid={pid}"),
        }
    }
}

/// Where the calls of a connection come from.
#[derive(Debug, Clone, Default)]
pub struct Origin {
    /// The other end.
    pub remote: Remote,
    /// The names in its certificate, such as `CN=shop` and `DNS:shop.example.com`. Only of a
    /// certificate that was verified.
    pub names: Arc<[Arc<str>]>,
}

/// Who calls, and from where.
#[derive(Debug, Clone)]
pub struct Identity {
    /// What the caller has proven.
    pub caller: Caller,
    /// The other end of its connection.
    pub remote: Remote,
}

/// A token that admits its bearer.
#[derive(Clone)]
pub struct KnownToken {
    caller: Arc<str>,
    roles: Roles,
    token: Zeroizing<String>,
    // All comparisons are of one length.
    hash: [u8; 32],
}

impl KnownToken {
    /// `name` is how the log names the bearer.
    pub fn new(name: &str, roles: Roles, token: &str) -> Self {
        let hash = Sha256::digest(token).into();
        Self { caller: name.into(), roles, token: Zeroizing::new(token.to_owned()), hash }
    }

    /// Whether both are the same token, whoever bears it.
    pub fn is_same(&self, other: &Self) -> bool {
        self.hash.ct_eq(&other.hash).into()
    }

    /// What it admits to.
    pub fn roles(&self) -> Roles {
        self.roles
    }

    /// The token itself, for a command that sends it.
    pub fn expose(&self) -> &str {
        &self.token
    }
}

impl PartialEq for KnownToken {
    fn eq(&self, other: &Self) -> bool {
        self.is_same(other) && self.caller == other.caller && self.roles == other.roles
    }
}

impl fmt::Debug for KnownToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KnownToken")
    }
}

/// A name in certificates that admits their owners.
#[derive(Debug, Clone, PartialEq)]
pub struct KnownSubject {
    /// As in [`Origin::names`].
    pub name: Arc<str>,
    /// What it admits to.
    pub roles: Roles,
}

/// Who may call. Without tokens and subjects: everybody who reaches a listener.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Access {
    /// Bearer tokens.
    pub tokens: Vec<KnownToken>,
    /// Names in certificates.
    pub subjects: Vec<KnownSubject>,
}

/// Why another access must not take the place of the one in force.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SuccessionError {
    /// A token is the beginning of one in force.
    #[error(
        "a token is the beginning of one in force, as if the file were not written to its end; \
         write a file beside it and rename it"
    )]
    CutShort,
    /// Every caller would be refused.
    #[error(
        "none of the tokens in force is in the file, and every caller would be refused; keep one \
         until its callers have the new one, and remove it with a later reload; a restart takes \
         any tokens"
    )]
    NoneIsKept,
}

impl Access {
    /// Nothing is asked of callers.
    pub fn is_open(&self) -> bool {
        self.tokens.is_empty() && self.subjects.is_empty()
    }

    /// Who calls, if the caller has the role. `token` is what it bears.
    ///
    /// A token that is borne decides alone, if tokens are known. A caller without one is known
    /// by its certificate. If only certificates are known, unix sockets are open: they have
    /// none, and the mode of the file says who may use them.
    pub fn admit(
        &self,
        token: Option<&[u8]>,
        origin: &Origin,
        role: Role,
    ) -> Result<Caller, Reason> {
        if self.is_open() {
            return Ok(match origin.names.first() {
                None => Caller::Anybody,
                Some(name) => Caller::Named(Arc::clone(name)),
            });
        }
        let (caller, roles) = match token.filter(|_| !self.tokens.is_empty()) {
            Some(token) => self.bearer(token).ok_or(Reason::TokenUnknown)?,
            None => match self.owner(&origin.names) {
                Some(found) => found,
                None if !self.tokens.is_empty() => return Err(Reason::TokenRequired),
                None if matches!(origin.remote, Remote::Unix { .. }) => {
                    return Ok(Caller::Anybody);
                }
                None => return Err(Reason::RoleRequired),
            },
        };
        if roles.has(role) { Ok(Caller::Named(caller)) } else { Err(Reason::RoleRequired) }
    }

    fn bearer(&self, token: &[u8]) -> Option<(Arc<str>, Roles)> {
        let hash: [u8; 32] = Sha256::digest(token).into();
        // Every hash is compared, so that the time does not tell which one it was.
        let mut found = u64::MAX;
        for (at, known) in self.tokens.iter().enumerate() {
            found.conditional_assign(&(at as u64), known.hash.ct_eq(&hash));
        }
        let known = self.tokens.get(usize::try_from(found).ok()?)?;
        Some((Arc::clone(&known.caller), known.roles))
    }

    /// The first name that is known is the caller's; the roles are those of all of them.
    fn owner(&self, names: &[Arc<str>]) -> Option<(Arc<str>, Roles)> {
        let known = names
            .iter()
            .flat_map(|name| self.subjects.iter().filter(move |subject| subject.name == *name));
        known
            .map(|subject| (Arc::clone(&subject.name), subject.roles))
            .reduce(|(first, roles), (_, more)| (first, roles.and(more)))
    }

    /// Why the tokens of `next` must not take the place of these.
    pub fn check_succession(&self, next: &Self) -> Result<(), SuccessionError> {
        let is_known = |token: &KnownToken| self.tokens.iter().any(|known| known.is_same(token));
        let is_cut_short = |token: &&KnownToken| {
            let begins = |known: &KnownToken| known.token.starts_with(token.token.as_str());
            !is_known(token) && self.tokens.iter().any(begins)
        };
        if next.tokens.iter().any(|token| is_cut_short(&token)) {
            return Err(SuccessionError::CutShort);
        }
        let is_exchange = !self.tokens.is_empty() && !next.tokens.is_empty();
        if is_exchange && !next.tokens.iter().any(is_known) {
            return Err(SuccessionError::NoneIsKept);
        }
        Ok(())
    }
}

/// Is told of callers that were refused.
pub trait Refusals: Send + Sync + 'static {
    /// `reason` is one of a known few, such as the name of a [`Reason`].
    fn refused(&self, reason: &'static str, remote: Remote);
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHOP: &str = "the-token-of-the-shop";
    const OPS: &str = "the-token-of-operators";

    fn token(name: &str, roles: &str, token: &str) -> KnownToken {
        KnownToken::new(name, roles.parse().expect("roles"), token)
    }

    fn access() -> Access {
        let subject = |name: &str, roles: &str| KnownSubject {
            name: name.into(),
            roles: roles.parse().expect("roles"),
        };
        Access {
            tokens: vec![token("shop", "frontend", SHOP), token("ops", "admin", OPS)],
            subjects: vec![subject("CN=desk", "admin"), subject("DNS:desk.example", "frontend")],
        }
    }

    fn from(remote: Remote, names: &[&str]) -> Origin {
        Origin { remote, names: names.iter().map(|name| (*name).into()).collect() }
    }

    const UNIX: Remote = Remote::Unix { uid: 0, pid: None };

    fn named(name: &str) -> Result<Caller, Reason> {
        Ok(Caller::Named(name.into()))
    }

    #[test]
    fn a_token_opens_what_its_roles_say() {
        let access = access();
        let admit =
            |token: &str, role| access.admit(Some(token.as_bytes()), &from(UNIX, &[]), role);
        assert_eq!(admit(SHOP, Role::Frontend), named("shop"));
        assert_eq!(admit(SHOP, Role::Admin), Err(Reason::RoleRequired));
        assert_eq!(admit(OPS, Role::Admin), named("ops"));
        assert_eq!(admit(OPS, Role::Frontend), Err(Reason::RoleRequired));
        assert_eq!(admit("another-token-of-nobody", Role::Admin), Err(Reason::TokenUnknown));
        assert_eq!(admit("", Role::Admin), Err(Reason::TokenUnknown));
        let nothing = access.admit(None, &from(UNIX, &[]), Role::Frontend);
        assert_eq!(nothing, Err(Reason::TokenRequired));
    }

    #[test]
    fn a_certificate_opens_what_its_names_say() {
        let access = access();
        let admit = |names: &[&str], role| access.admit(None, &from(Remote::Unknown, names), role);
        assert_eq!(admit(&["CN=desk"], Role::Admin), named("CN=desk"));
        assert_eq!(admit(&["CN=desk"], Role::Frontend), Err(Reason::RoleRequired));
        let both = ["CN=x", "CN=desk", "DNS:desk.example"];
        assert_eq!(admit(&both, Role::Frontend), named("CN=desk"), "all names count");
        assert_eq!(admit(&["DNS:desk"], Role::Admin), Err(Reason::TokenRequired));
        // A token that is borne decides, also against the certificate.
        let origin = from(Remote::Unknown, &["CN=desk"]);
        let borne = |token: &str| access.admit(Some(token.as_bytes()), &origin, Role::Admin);
        assert_eq!(borne(SHOP), Err(Reason::RoleRequired));
        assert_eq!(borne("nonsense"), Err(Reason::TokenUnknown));
    }

    #[test]
    fn without_tokens_certificates_decide_and_unix_sockets_are_open() {
        let access = Access { tokens: Vec::new(), ..access() };
        let admit = |remote, names: &[&str], token: Option<&[u8]>| {
            access.admit(token, &from(remote, names), Role::Admin)
        };
        assert_eq!(admit(Remote::Unknown, &["CN=desk"], Some(b"any")), named("CN=desk"));
        assert_eq!(admit(Remote::Unknown, &["CN=other"], None), Err(Reason::RoleRequired));
        assert_eq!(admit(Remote::Unknown, &[], None), Err(Reason::RoleRequired));
        assert_eq!(admit(UNIX, &[], None), Ok(Caller::Anybody));
        let open = Access::default();
        assert_eq!(open.admit(None, &from(UNIX, &[]), Role::Admin), Ok(Caller::Anybody));
        assert_eq!(open.admit(None, &from(UNIX, &["CN=a"]), Role::Admin), named("CN=a"));
    }

    #[test]
    fn tokens_are_replaced_only_if_one_stays() {
        let of = |tokens: &[&str]| Access {
            tokens: tokens.iter().map(|text| token("any", "frontend", text)).collect(),
            subjects: Vec::new(),
        };
        let now = of(&[SHOP, OPS]);
        for fine in [&[OPS, SHOP][..], &[OPS], &["a-third-token-of-tests", SHOP], &[]] {
            assert_eq!(now.check_succession(&of(fine)), Ok(()), "{fine:?}");
        }
        assert_eq!(of(&[]).check_succession(&now), Ok(()), "there was none to keep");
        let foreign = now.check_succession(&of(&["a-third-token-of-tests"]));
        assert_eq!(foreign, Err(SuccessionError::NoneIsKept));
        let half = now.check_succession(&of(&[SHOP, &OPS[..18]]));
        assert_eq!(half, Err(SuccessionError::CutShort));
    }

    #[test]
    fn roles_are_words() {
        let both = "admin+frontend".parse::<Roles>();
        assert_eq!(both, Ok(Roles::ALL));
        let admin: Roles = "admin".parse().expect("a role");
        assert!(admin.has(Role::Admin) && !admin.has(Role::Frontend));
        for bad in ["", "root", "admin+", "admin+admin", "Admin", "admin,frontend"] {
            assert_eq!(bad.parse::<Roles>(), Err(NoRoles), "{bad:?}");
        }
    }

    #[test]
    fn debug_shows_no_token() {
        assert!(!format!("{:?}", access()).contains("the-token"));
    }
}
