//! CSV that a spreadsheet may open: RFC 4180, and no cell that it would take for a formula.

use csv::{QuoteStyle, WriterBuilder};

/// What makes a spreadsheet take a cell for a formula (ASVS 5.0 §1.2.10).
const FORMULA_STARTS: [char; 7] = ['=', '+', '-', '@', '\t', '\r', '\0'];

/// What a spreadsheet may take for the end of a cell, by its locale.
const CELL_ENDS: [char; 5] = [';', ',', '\t', '\r', '\n'];

/// One line, quoted where it has to be, ending in CRLF.
pub(crate) fn line<const N: usize>(cells: [&str; N]) -> Vec<u8> {
    let mut writer = WriterBuilder::new()
        .terminator(csv::Terminator::CRLF)
        .quote_style(QuoteStyle::Necessary)
        .from_writer(Vec::new());
    writer
        .write_record(cells.map(harmless))
        .expect("a vector takes any line");
    writer.into_inner().expect("a vector takes any line")
}

/// The cell, with an apostrophe before what could be a formula: at its start, and behind whatever a
/// spreadsheet of another country may take for the end of a cell.
fn harmless(cell: &str) -> String {
    let mut safe = String::with_capacity(cell.len());
    let mut at_start = true;
    for c in cell.chars() {
        if at_start && FORMULA_STARTS.contains(&c) {
            safe.push('\'');
        }
        safe.push(c);
        at_start = CELL_ENDS.contains(&c);
    }
    safe
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn formulas_are_defused_and_commas_quoted() {
        let text = String::from_utf8(line(["=1+1", "a,b", "c\"d", "-2", "ok"])).unwrap();
        assert_eq!(text, "'=1+1,\"a,b\",\"c\"\"d\",'-2,ok\r\n");
    }

    #[test]
    fn a_formula_behind_another_separator_is_defused() {
        for (given, safe) in [
            ("a;=1+1", "a;'=1+1"),
            ("a,@x", "a,'@x"),
            ("a\t-1", "a\t'-1"),
            ("a\n=1", "a\n'=1"),
            ("=;=", "'=;'="),
            ("a; b", "a; b"),
            ("1-2", "1-2"),
        ] {
            assert_eq!(harmless(given), safe, "{given:?}");
        }
    }

    proptest! {
        #[test]
        fn no_cell_is_a_formula_and_none_is_lost(a in "\\PC{0,20}", b in "[=+@\\-\\t\\r\\n,\"a]{0,8}") {
            let bytes = line([&a, &b]);
            let mut reader = ::csv::ReaderBuilder::new().has_headers(false).from_reader(bytes.as_slice());
            let record = reader.records().next().unwrap().unwrap();
            prop_assert_eq!(record.len(), 2);
            for (cell, given) in record.iter().zip([&a, &b]) {
                prop_assert!(cell.split(CELL_ENDS).all(|part| !part.starts_with(['=', '+', '-', '@'])));
                prop_assert!(!cell.starts_with(FORMULA_STARTS));
                prop_assert_eq!(cell.replace('\'', ""), given.replace('\'', ""));
            }
        }
    }
}
