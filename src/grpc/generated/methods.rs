/// The methods of `sessiond.v1.SessionService`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionServiceMethod {
    Resolve,
    Touch,
    Write,
    Destroy,
    ListSessions,
    Describe,
    Pipeline,
}

impl SessionServiceMethod {
    /// The full name of the service.
    pub const SERVICE: &str = "sessiond.v1.SessionService";

    /// The method that is called with this path; `None`: it is not one of this service.
    pub fn from_path(path: &str) -> Option<Self> {
        Some(match path {
            "/sessiond.v1.SessionService/Resolve" => Self::Resolve,
            "/sessiond.v1.SessionService/Touch" => Self::Touch,
            "/sessiond.v1.SessionService/Write" => Self::Write,
            "/sessiond.v1.SessionService/Destroy" => Self::Destroy,
            "/sessiond.v1.SessionService/ListSessions" => Self::ListSessions,
            "/sessiond.v1.SessionService/Describe" => Self::Describe,
            "/sessiond.v1.SessionService/Pipeline" => Self::Pipeline,
            _ => return None,
        })
    }
}
