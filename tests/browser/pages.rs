//! What all pages have in common. Nothing is changed here, so all look at one rig.

use crate::sample_rig::sample_rig;
use crate::scenario::{play, play_in};

#[test]
fn axe_finds_nothing_on_any_page_wide_and_narrow() {
    play_in(&sample_rig(), "accessibility", "light");
}

#[test]
fn axe_finds_nothing_on_any_page_in_the_dark() {
    play_in(&sample_rig(), "accessibility", "dark");
}

#[test]
fn no_page_scrolls_horizontally_on_narrow_or_wide_screens() {
    play(&sample_rig(), "horizontal_scroll");
}

#[test]
fn a_first_view_is_small_and_no_page_loads_or_runs_foreign_code() {
    play(&sample_rig(), "page_policy");
}

#[test]
#[ignore = "pictures for people: make screenshots"]
fn take_a_picture_of_every_page() {
    play(&sample_rig(), "screenshots");
}
