//! The pages of a list, put together.

use std::collections::BTreeSet;

use blueprint_hub_provision_core::ProviderError;

use super::Call;

/// Most pages of a list; 20,000 machines are more than any account may have.
const MAX_PAGES: usize = 100;

/// The rows of a list that comes in pages, each once.
#[derive(Debug)]
pub struct Rows<T> {
    call: Call,
    rows: Vec<T>,
    seen: BTreeSet<String>,
    total: Option<usize>,
    pages: usize,
}

impl<T> Rows<T> {
    /// None yet, of the list that `call` asks for.
    #[must_use]
    pub const fn new(call: Call) -> Self {
        Self { call, rows: Vec::new(), seen: BTreeSet::new(), total: None, pages: 0 }
    }

    /// Adds the next page. `total` is what the page says of the whole list, `id` tells rows apart. True after the last one.
    ///
    /// # Errors
    ///
    /// [`ProviderError::Busy`] where the list changed between two pages, so that a row may be missing;
    /// [`ProviderError::Other`] where it does not end.
    pub fn add(
        &mut self,
        page: Vec<T>,
        total: usize,
        is_last: bool,
        id: impl Fn(&T) -> String,
    ) -> Result<bool, ProviderError> {
        let changed = || ProviderError::Busy {
            reason: format!("{}: the list changed while it was read", self.call.name),
        };
        self.pages += 1;
        // One that goes while pages are read moves the next one to a page that was read already.
        let is_short = page.is_empty() && !is_last;
        if is_short || *self.total.get_or_insert(total) != total {
            return Err(changed());
        }
        for row in page {
            if self.seen.insert(id(&row)) {
                self.rows.push(row);
            }
        }
        if is_last && self.rows.len() != total {
            return Err(changed());
        }
        if !is_last && self.pages >= MAX_PAGES {
            let source = format!("the list has more than {MAX_PAGES} pages").into();
            return Err(ProviderError::Other { call: self.call.name, source });
        }
        Ok(is_last)
    }

    /// The rows.
    #[must_use]
    pub fn take(self) -> Vec<T> {
        self.rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rest::call;

    fn read(pages: &[(&[u32], usize)]) -> Result<Vec<u32>, ProviderError> {
        let mut rows = Rows::new(call("list-x", ""));
        for (number, (page, total)) in pages.iter().enumerate() {
            rows.add(page.to_vec(), *total, number + 1 == pages.len(), ToString::to_string)?;
        }
        Ok(rows.take())
    }

    #[test]
    fn pages_make_a_whole_list_or_an_error() {
        assert_eq!(read(&[(&[1, 2], 3), (&[3], 3)]).unwrap(), [1, 2, 3]);
        assert_eq!(read(&[(&[], 0)]).unwrap(), Vec::<u32>::new());
        for pages in [
            &[(&[1, 2][..], 3), (&[3][..], 2)][..],
            &[(&[1, 2], 3), (&[], 3)],
            &[(&[], 3), (&[1, 2, 3], 3)],
            &[(&[1, 2], 3), (&[2], 3)],
        ] {
            let read = read(pages);
            assert!(matches!(read, Err(ProviderError::Busy { .. })), "{pages:?}: {read:?}");
        }
    }

    #[test]
    fn a_list_without_end_is_given_up() {
        let mut rows = Rows::new(call("list-x", ""));
        let mut ended =
            (0..).map(|number: u32| rows.add(vec![number], 1_000_000, false, ToString::to_string));
        assert!(ended.find_map(Result::err).is_some_and(|error| error.to_string().contains("list-x")));
    }
}
