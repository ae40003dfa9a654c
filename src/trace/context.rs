//! The place of a span in its trace, as W3C Trace Context tells it.

/// The place of a span in its trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context {
    /// The id of the trace; not 0.
    pub trace: u128,
    /// The id of the span; not 0.
    pub span: u64,
    /// Whether the trace is recorded.
    pub is_sampled: bool,
}

/// The length of version 0: `00-TRACE-SPAN-FLAGS`.
const LEN: usize = 55;

impl Context {
    /// Reads a `traceparent` (W3C Trace Context, section 3.2). `None`: it is not valid, and is to
    /// be ignored.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let (known, rest) = text.split_at_checked(LEN)?;
        let version = hex(&known[..2])?;
        // A later version may say more behind a dash; 255 is none.
        let fits = match version {
            0 => rest.is_empty(),
            0xff => false,
            _ => rest.first().is_none_or(|octet| *octet == b'-'),
        };
        let has_dashes = [2, 35, 52].iter().all(|at| known[*at] == b'-');
        if !fits || !has_dashes {
            return None;
        }
        let trace = hex(&known[3..35])?;
        let span = hex(&known[36..52])? as u64;
        let flags = hex(&known[53..])?;
        (trace != 0 && span != 0).then_some(Self { trace, span, is_sampled: flags & 1 != 0 })
    }
}

/// A number of lower-case digits, as the format has them.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const SPAN: &str = "b7ad6b7169203331";

    fn of(text: &str) -> Option<Context> {
        Context::parse(text.as_bytes())
    }

    #[test]
    fn a_traceparent_names_a_span_and_whether_it_is_recorded() {
        let expected = |is_sampled| {
            let (trace, span) = (0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c, 0xb7ad_6b71_6920_3331);
            Some(Context { trace, span, is_sampled })
        };
        assert_eq!(of(&format!("00-{TRACE}-{SPAN}-01")), expected(true));
        assert_eq!(of(&format!("00-{TRACE}-{SPAN}-00")), expected(false));
        assert_eq!(of(&format!("00-{TRACE}-{SPAN}-03")), expected(true));
        assert_eq!(of(&format!("cc-{TRACE}-{SPAN}-01")), expected(true));
        assert_eq!(of(&format!("cc-{TRACE}-{SPAN}-01-what.the.future")), expected(true));
    }

    #[test]
    fn what_is_not_valid_is_ignored() {
        let zeros = "0".repeat(32);
        for text in [
            String::new(),
            format!("00-{TRACE}-{SPAN}"),
            format!("00-{TRACE}-{SPAN}-1"),
            format!("00-{TRACE}-{SPAN}-01-"),
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("cc-{TRACE}-{SPAN}-01.what"),
            format!("00-{zeros}-{SPAN}-01"),
            format!("00-{TRACE}-{}-01", &zeros[..16]),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00_{TRACE}_{SPAN}_01"),
            format!("0x-{TRACE}-{SPAN}-01"),
            "é".repeat(28),
        ] {
            assert_eq!(of(&text), None, "{text:?}");
        }
    }
}
