//! `GET /`: the page. One document that contains its script and style, assembled from the files in
//! `dashboard/`, which are in the binary.
//!
//! Invariants: nothing is fetched from elsewhere. The document holds no data, so it may be shown
//! without a token. The policy (CSP level 3) contains the digests of exactly this script and style,
//! and forbids all conversions from text to markup (`require-trusted-types-for`): external input is
//! text.

use crate::domain::digest::Digest;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use std::sync::LazyLock;

const FRAME: &str = include_str!("dashboard/page.html");
const STYLES: [&str; 2] = [include_str!("dashboard/uPlot.min.css"), include_str!("dashboard/page.css")];
/// The license requires a copy of its text in every copy of the software.
const LICENSE: &str = include_str!("dashboard/uPlot.LICENSE");
/// In this order: each uses names of those before it.
const SCRIPTS: [&str; 9] = [
    include_str!("dashboard/uPlot.iife.min.js"),
    include_str!("dashboard/words.js"),
    include_str!("dashboard/server.js"),
    include_str!("dashboard/now.js"),
    include_str!("dashboard/charts.js"),
    include_str!("dashboard/release.js"),
    include_str!("dashboard/lookups.js"),
    include_str!("dashboard/resources.js"),
    include_str!("dashboard/main.js"),
];

struct AssembledPage {
    text: Bytes,
    policy: HeaderValue,
    tag: HeaderValue,
}

static PAGE: LazyLock<AssembledPage> = LazyLock::new(|| {
    let (style, script) = (STYLES.join("\n"), format!("/* uPlot:\n{LICENSE}*/\n{}", SCRIPTS.join("\n")));
    let text = FRAME
        .replace("<!-- style -->", &format!("<style>{style}</style>"))
        .replace("<!-- script -->", &format!("<script>{script}</script>"));
    let policy = format!(
        "default-src 'self'; script-src {}; style-src {}; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
        source(&script),
        source(&style),
    );
    let tag = format!("\"{}\"", hash(&text));
    // Base64 and constants of this file: both are valid in a header.
    let header =
        |text: String| HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("default-src 'none'"));
    AssembledPage { policy: header(policy), tag: header(tag), text: text.into() }
});

fn hash(text: &str) -> String {
    STANDARD.encode(Digest::of(text.as_bytes()))
}

fn source(text: &str) -> String {
    format!("'sha256-{}'", hash(text))
}

fn headers() -> [(HeaderName, HeaderValue); 6] {
    [
        (header::CONTENT_SECURITY_POLICY, PAGE.policy.clone()),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
        (HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin")),
    ]
}

pub async fn page(sent: HeaderMap) -> Response {
    let tag = [(header::ETAG, PAGE.tag.clone())];
    if sent.get(header::IF_NONE_MATCH) == Some(&PAGE.tag) {
        return (StatusCode::NOT_MODIFIED, headers(), tag).into_response();
    }
    let mut response = tag.into_response();
    as_answer(&mut response);
    response
}

/// Replaces a response's body by the page; the status and the other headers stay.
pub fn as_answer(response: &mut Response) {
    *response.body_mut() = PAGE.text.clone().into();
    let kind = (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    response.headers_mut().remove(header::CONTENT_LENGTH);
    response.headers_mut().extend(headers().into_iter().chain([kind]));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::digest::hex;

    #[test]
    fn the_document_is_whole_and_fetches_nothing() {
        let text = std::str::from_utf8(&PAGE.text).unwrap();
        assert!(!text.contains("<!-- style -->") && !text.contains("<!-- script -->"));
        assert_eq!((text.matches("<script>").count(), text.matches("</script").count()), (1, 1));
        assert_eq!((text.matches("<style>").count(), text.matches("</style").count()), (1, 1));
        for way in [" src=", "@import", "url(", "//cdn", "style=\"", " onclick=\"", "importScripts", "eval("]
        {
            assert!(!text.contains(way), "{way}");
        }
        let addresses: Vec<&str> = text.match_indices("https://").map(|(at, _)| &text[at..at + 28]).collect();
        assert_eq!(addresses, ["https://github.com/leeoniya/"], "the banner of uPlot, and no other");
    }

    #[test]
    fn our_own_script_makes_no_markup_of_text() {
        for script in &SCRIPTS[1..] {
            for way in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "new Function",
                "setAttribute('on",
            ] {
                assert!(!script.contains(way), "{way}");
            }
        }
    }

    #[test]
    fn uplot_is_the_file_that_its_authors_published() {
        let list = include_str!("dashboard/uPlot.sha256");
        let published = |name: &str| list.lines().find_map(|l| l.strip_suffix(name)).map(str::trim).unwrap();
        let digest = |text: &str| hex(&Digest::of(text.as_bytes()));
        assert_eq!(digest(SCRIPTS[0]), published("uPlot.iife.min.js"));
        assert_eq!(digest(STYLES[0]), published("uPlot.min.css"));
        assert!(LICENSE.starts_with("The MIT License") && !LICENSE.contains("*/"));
    }
}
