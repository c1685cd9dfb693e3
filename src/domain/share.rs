//! Formats measured shares for people: rounded, but less than 100% never shows as 100%, and more
//! than 0% never as 0%.
//!
//! Invariants: pure and total; exact 100 and 0 show as such.

/// `5.05%`; `<0.01%` and `>99.99%` where rounding would hide a difference. `value` is in percent.
pub fn percent(value: f64, decimals: usize) -> String {
    let step = 10f64.powi(-(decimals as i32));
    let text = format!("{value:.decimals$}");
    let reads = |whole: f64| text.parse::<f64>().is_ok_and(|read| read.abs() == whole);
    if value > 0.0 && reads(0.0) {
        return format!("<{step:.decimals$}%");
    }
    if value < 100.0 && reads(100.0) {
        return format!(">{:.decimals$}%", 100.0 - step);
    }
    format!("{text}%")
}

/// The same as a number for machines: rounded to `decimals`, one step away from 0 and 100 unless
/// exact.
pub fn rounded(value: f64, decimals: i32) -> f64 {
    let scale = 10f64.powi(decimals);
    let nearest = (value * scale).round() / scale;
    match nearest {
        n if n >= 100.0 && value < 100.0 => 100.0 - 1.0 / scale,
        n if n <= 0.0 && value > 0.0 => 1.0 / scale,
        n => n,
    }
}

/// Progress in whole percent: 100 only when complete.
pub fn progress(ratio: f64) -> String {
    match 100.0 * ratio {
        percent if percent > 0.0 && percent < 1.0 => "<1%".to_owned(),
        percent => format!("{:.0}%", percent.floor()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nothing_below_all_reads_as_all_and_nothing_above_none_as_none() {
        let shown = [0.0, 0.004, 0.005, 0.0583, 4.97, 99.6, 99.994, 99.996, 100.0].map(|v| percent(v, 2));
        let expected =
            ["0.00%", "<0.01%", "0.01%", "0.06%", "4.97%", "99.60%", "99.99%", ">99.99%", "100.00%"];
        assert_eq!(shown, expected);
        assert_eq!([0.4, 99.6, 100.0].map(|v| percent(v, 0)), ["<1%", ">99%", "100%"]);
        assert_eq!([0.0, 0.001, 0.61, 0.996, 1.0].map(progress), ["0%", "<1%", "61%", "99%", "100%"]);
        assert_eq!([0.001, 33.336, 99.999].map(|v| rounded(v, 2)), [0.01, 33.34, 99.99]);
    }

    proptest! {
        #[test]
        fn all_and_none_are_told_of_themselves_alone(value in 0.0f64..=100.0, decimals in 0usize..5) {
            let text = percent(value, decimals);
            let read: Result<f64, _> = text.trim_end_matches('%').parse();
            prop_assert_eq!(read == Ok(100.0), value == 100.0, "{}", text);
            prop_assert_eq!(read == Ok(0.0), value == 0.0, "{}", text);
            let number = rounded(value, decimals as i32);
            prop_assert_eq!((number >= 100.0, number <= 0.0), (value == 100.0, value == 0.0));
            let ratio = value / 100.0;
            prop_assert_eq!(progress(ratio) == "100%", ratio == 1.0);
        }
    }
}
