//! Distinguished names: relative names joined by slashes, which may themselves hold slashes inside brackets.

/// A name that programs give to an object's place in the REST API.
pub fn uri(dn: &str) -> String {
    format!("/api/mo/{dn}.json")
}

/// The names above `dn`, the nearest first.
pub fn parents(dn: &str) -> Vec<&str> {
    let mut above: Vec<&str> = separators(dn).map(|at| &dn[..at]).filter(|parent| !parent.is_empty()).collect();
    above.reverse();
    above
}

/// How many relative names it consists of.
pub fn depth(dn: &str) -> usize {
    separators(dn).count() + 1
}

/// Where the slashes outside all brackets are. A bracket that nothing closes holds the rest.
fn separators(dn: &str) -> impl Iterator<Item = usize> {
    let mut open = 0_usize;
    dn.bytes().enumerate().filter_map(move |(at, byte)| {
        match byte {
            b'[' => open += 1,
            b']' => open = open.saturating_sub(1),
            b'/' if open == 0 => return Some(at),
            _ => {}
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slashes_inside_brackets_belong_to_a_name() {
        assert_eq!(parents("uni/tn-X/ap-Y"), ["uni/tn-X", "uni"]);
        assert_eq!(parents("uni"), [""; 0]);
        assert_eq!(
            parents("uni/tn-X/BD-Z/subnet-[10.0.0.1/24]/rsnh-[a/[b/c]/d]"),
            ["uni/tn-X/BD-Z/subnet-[10.0.0.1/24]", "uni/tn-X/BD-Z", "uni/tn-X", "uni"]
        );
        assert_eq!(
            parents("topology/pod-1/paths-101/pathep-[eth1/1"),
            ["topology/pod-1/paths-101", "topology/pod-1", "topology"]
        );
        assert_eq!(parents("a]/b"), ["a]"]);
        assert_eq!(depth("uni/tn-X/subnet-[1/2]"), 3);
        assert_eq!(uri("uni/tn-X"), "/api/mo/uni/tn-X.json");
    }
}
