//! Forms and their buttons.

use super::*;

#[test]
fn a_form_keeps_its_meaning_when_the_page_updates() {
    let of = |bad: Option<BadMark>| {
        let html = builds(vec![BuildRow { bad, ..build() }]).render().unwrap();
        let (_, form) = html.split_once("method=\"post\" action=\"/apps/").unwrap();
        let (action, rest) = form.split_once('"').unwrap();
        (action.to_owned(), rest.split_once("id=\"").unwrap().1.split_once('"').unwrap().0.to_owned())
    };
    let (bad, good) = (of(None), of(build().bad));
    assert!(bad.0.ends_with("/bad") && good.0.ends_with("/good"), "{bad:?} {good:?}");
    assert_ne!(bad.1, good.1, "the script keeps two forms apart by their ids");
}

#[test]
fn a_request_that_would_be_refused_has_no_button_and_shows_the_reason() {
    let html = blocked_review().render().unwrap();
    assert!(!html.contains("id=\"go\"") && html.contains(">Back<"), "{html}");
    assert!(text(&html, "id=\"verdict\">", "</p>").contains("blocked"), "{html}");
}

#[test]
fn a_disabled_button_shows_the_reason() {
    let html = ready_review().render().unwrap();
    assert!(html.contains("<button type=\"submit\" id=\"go\""), "{html}");
    let refused = Denials { deploy: Some("sign in to deploy".to_owned()), ..Denials::default() };
    let html = ReviewPage { denials: refused, ..ready_review() }.render().unwrap();
    assert!(!html.contains("type=\"submit\" id=\"go\""));
    assert!(html.contains("aria-describedby=\"go-why\"") && html.contains("id=\"go-why\">sign in to deploy<"));
}
