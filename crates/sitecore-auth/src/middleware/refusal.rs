//! Whether an answer 401 says that the token is no good.

use http::header::WWW_AUTHENTICATE;
use http_auth::parser::ChallengeParser;
use reqwest::Response;

/// Reads the challenges of an answer 401 ([RFC 9110 §11.6.1]).
///
/// It is a refusal of the token if there is no challenge at all, as with Sitecore's own APIs, or one for
/// Bearer; but not one of `insufficient_scope` ([RFC 6750 §3.1]), which no other token would mend. If all
/// challenges are of other schemes, the server did not look at the token.
///
/// [RFC 9110 §11.6.1]: https://www.rfc-editor.org/rfc/rfc9110#section-11.6.1
/// [RFC 6750 §3.1]: https://www.rfc-editor.org/rfc/rfc6750#section-3.1
pub(super) fn is_refusal(answer: &Response) -> bool {
    let mut other_scheme = false;
    for header in answer.headers().get_all(WWW_AUTHENTICATE) {
        let Ok(header) = header.to_str() else {
            continue;
        };
        for challenge in ChallengeParser::new(header) {
            match challenge {
                Ok(challenge) if is_bearer(challenge.scheme) => {
                    let mut errors = challenge
                        .params
                        .iter()
                        .filter(|(name, _)| name.eq_ignore_ascii_case("error"));
                    return errors
                        .next()
                        .is_none_or(|(_, code)| code.to_unescaped() != "insufficient_scope");
                }
                Ok(_) => other_scheme = true,
                // `Negotiate YWJj==`: the parser knows no token68, but the scheme stands in front.
                Err(_) => {
                    other_scheme |= !is_bearer(header.split([' ', ',']).next().unwrap_or_default());
                    break;
                }
            }
        }
    }
    !other_scheme
}

fn is_bearer(scheme: &str) -> bool {
    scheme.eq_ignore_ascii_case("bearer")
}
