//! A URL, an origin and a subprotocol on a line each, as `explain` and the policies' tests are
//! given them.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sidegate::policy::origin::{OriginPattern, Origins};
use sidegate::policy::request::{Host, Request, RequestPath, canonical_path};

fuzz_target!(|text: &str| {
    let mut lines = text.split('\n');
    let (url, origin, subprotocol) = (lines.next().unwrap_or_default(), lines.next(), lines.next());
    match Request::of_url(url, origin, subprotocol) {
        Ok(Ok(request)) => {
            let canonical = request.path.canonical();
            assert!(canonical.is_none_or(|path| canonical_path(path).as_deref() == Ok(path)));
            assert_eq!(RequestPath::read(request.path.sent()).as_ref(), Ok(&request.path));
            assert_eq!(
                Host::parse(request.host.to_string().as_bytes()).as_ref(),
                Some(&request.host)
            );
        }
        Ok(Err(_)) => {}
        Err(fault) => assert!(!fault.fault.is_empty() && !fault.remedy.is_empty()),
    }
    if let Some(Ok(pattern)) = origin.map(Origins::parse_one) {
        let shown = pattern.to_string();
        assert_eq!(Origins::parse_one(&shown).as_ref(), Ok(&pattern), "{shown}");
        if let Ok(Ok(request)) = Request::of_url(url, lines.next(), None) {
            let _ = Origins::new(vec![pattern, OriginPattern::Same]).admits(&request);
        }
    }
});
