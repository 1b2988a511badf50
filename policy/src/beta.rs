//! The beta distribution: what can be believed about a rate after so many bad and good outcomes.

/// Terms of the continued fraction; it needs about the square root of the larger parameter.
const TERMS_MAX: u32 = 100_000;
/// Steps of the search for a quantile: each at least halves the bracket, and Newton's are far quicker.
const STEPS_MAX: u32 = 200;

/// The logarithm of the gamma function, for positive `x`, good to about 14 digits.
pub fn ln_gamma(x: f64) -> f64 {
    // Stirling's series is exact enough from 15 on; below, the recurrence climbs there.
    let (mut x, mut shift) = (x, 0.0);
    while x < 15.0 {
        shift += x.ln();
        x += 1.0;
    }
    let (inverse, square) = (1.0 / x, 1.0 / (x * x));
    let series = inverse
        * (1.0 / 12.0
            - square
                * (1.0 / 360.0
                    - square * (1.0 / 1260.0 - square * (1.0 / 1680.0 - square / 1188.0))));
    (x - 0.5) * x.ln() - x + 0.5 * std::f64::consts::TAU.ln() + series - shift
}

/// The regularised incomplete beta function `I_x(a, b)`: the probability that a rate with this
/// distribution is at most `x`. `a` and `b` must be positive.
pub fn at_most(x: f64, a: f64, b: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    if x >= 1.0 {
        return 1.0;
    }
    // The fraction converges fast on the left of the mean only; the other side is its mirror image.
    if x > (a + 1.0) / (a + b + 2.0) {
        1.0 - below_mean(1.0 - x, b, a)
    } else {
        below_mean(x, a, b)
    }
}

/// The probability that a rate with this distribution is above `x`.
pub fn above(x: f64, a: f64, b: f64) -> f64 {
    at_most(1.0 - x, b, a)
}

/// The rate below which it lies with probability `p`.
pub fn quantile(p: f64, a: f64, b: f64) -> f64 {
    if p <= 0.0 {
        return 0.0;
    }
    if p >= 1.0 {
        return 1.0;
    }
    let (mut low, mut high) = (0.0_f64, 1.0_f64);
    let mut x = a / (a + b);
    for _ in 0..STEPS_MAX {
        let error = at_most(x, a, b) - p;
        if error > 0.0 {
            high = x;
        } else {
            low = x;
        }
        let newton = x - error / density(x, a, b);
        let next = if newton > low && newton < high {
            newton
        } else {
            low.midpoint(high)
        };
        if (next - x).abs() <= 1e-10 * next || high - low < 1e-300 {
            return next;
        }
        x = next;
    }
    x
}

/// The density at `x`, within 0 and 1.
fn density(x: f64, a: f64, b: f64) -> f64 {
    ((a - 1.0) * x.ln() + (b - 1.0) * (-x).ln_1p() - ln_beta(a, b)).exp()
}

fn ln_beta(a: f64, b: f64) -> f64 {
    ln_gamma(a) + ln_gamma(b) - ln_gamma(a + b)
}

/// `I_x(a, b)` by its continued fraction, evaluated from the front with Lentz's method.
fn below_mean(x: f64, a: f64, b: f64) -> f64 {
    let front = (a * x.ln() + b * (-x).ln_1p() - ln_beta(a, b)).exp() / a;
    // Keeps a zero denominator from ending the recurrence.
    let nonzero = |value: f64| if value.abs() < 1e-300 { 1e-300 } else { value };
    let (mut upper, mut lower) = (1.0, 1.0 / nonzero(1.0 - (a + b) * x / (a + 1.0)));
    let mut fraction = lower;
    for term in 1..=TERMS_MAX {
        let m = f64::from(term);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        lower = 1.0 / nonzero(1.0 + even * lower);
        upper = nonzero(1.0 + even / upper);
        fraction *= upper * lower;
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        lower = 1.0 / nonzero(1.0 + odd * lower);
        upper = nonzero(1.0 + odd / upper);
        fraction *= upper * lower;
        if (upper * lower - 1.0).abs() < 1e-15 {
            break;
        }
    }
    (front * fraction).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn close(found: f64, expected: f64, within: f64) {
        assert!(
            (found - expected).abs() <= within,
            "found {found}, expected {expected}"
        );
    }

    #[test]
    fn gamma_at_known_points() {
        close(ln_gamma(1.0), 0.0, 1e-13);
        close(ln_gamma(0.5), std::f64::consts::PI.ln() / 2.0, 1e-13);
        close(ln_gamma(5.0), 24.0_f64.ln(), 1e-13);
        // 99! has the logarithm 359.1342053695754.
        close(ln_gamma(100.0), 359.134_205_369_575_4, 1e-11);
    }

    #[test]
    fn closed_forms() {
        for x in [0.01, 0.3, 0.77, 0.99] {
            close(at_most(x, 1.0, 1.0), x, 1e-14);
            close(at_most(x, 3.0, 1.0), x.powi(3), 1e-14);
            close(above(x, 1.0, 99.0), (1.0 - x).powi(99), 1e-13);
            // The arcsine law.
            close(
                at_most(x, 0.5, 0.5),
                2.0 / std::f64::consts::PI * x.sqrt().asin(),
                1e-13,
            );
            // Two of three coins: 3x² - 2x³.
            close(at_most(x, 2.0, 2.0), 3.0 * x * x - 2.0 * x.powi(3), 1e-13);
        }
    }

    /// The figures that the thresholds were chosen by, checked against numerical integration.
    #[test]
    fn the_beliefs_that_the_bands_rest_on() {
        let complaint = |bad: f64, of: f64| above(0.003, 0.5 + bad, 999.5 + of - bad);
        let bounce = |bad: f64, of: f64| above(0.05, 1.0 + bad, 99.0 + of - bad);
        let placement = |bad: f64, of: f64| above(0.10, 1.0 + bad, 19.0 + of - bad);
        let table = [
            (complaint(1.0, 100.0), 0.085_710_111),
            (complaint(3.0, 1000.0), 0.100_410_570),
            (complaint(6.0, 1000.0), 0.528_013_470),
            (complaint(10.0, 2000.0), 0.649_479_687),
            (bounce(1.0, 13.0), 0.022_057_764),
            (bounce(10.0, 200.0), 0.114_709_498),
            (bounce(16.0, 200.0), 0.671_548_079),
            (bounce(20.0, 200.0), 0.924_396_387),
            (placement(1.0, 20.0), 0.087_590_417),
            (placement(3.0, 20.0), 0.443_719_357),
            (placement(5.0, 20.0), 0.809_740_768),
            (placement(8.0, 40.0), 0.868_649_909),
        ];
        for (found, expected) in table {
            close(found, expected, 1e-8);
        }
    }

    proptest! {
        #[test]
        fn a_quantile_is_the_inverse(p in 0.001_f64..0.999, a in 0.3_f64..5000.0, b in 0.3_f64..5000.0) {
            let x = quantile(p, a, b);
            prop_assert!((at_most(x, a, b) - p).abs() < 1e-7, "I({x}) = {}", at_most(x, a, b));
        }

        #[test]
        fn both_sides_add_up(x in 0.0_f64..1.0, a in 0.1_f64..20_000.0, b in 0.1_f64..20_000.0) {
            prop_assert!((at_most(x, a, b) + above(x, a, b) - 1.0).abs() < 1e-9);
        }

        #[test]
        fn it_rises(x in 0.0_f64..0.99, a in 0.1_f64..2000.0, b in 0.1_f64..2000.0) {
            prop_assert!(at_most(x, a, b) <= at_most(x + 0.01, a, b) + 1e-12);
        }
    }
}
