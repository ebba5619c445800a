//! Lists that are read page by page, up to as many as somebody wants to see.

use crate::table;

/// The most that one call lists.
const PAGE_SIZE: u32 = 1_000;

/// Reads up to `limit` entries. `ask` takes the size and the token of a page; `parts` finds the entries in an answer, and the token of
/// the next one. Returns the entries and the last answer without them.
///
/// # Errors
/// The first that `ask` brings.
pub(crate) async fn read<A, T, E>(
    limit: u32,
    mut ask: impl AsyncFnMut(i32, String) -> Result<A, E>,
    parts: impl Fn(&mut A) -> (&mut Vec<T>, &mut String),
) -> Result<(Vec<T>, A), E> {
    let mut entries = Vec::new();
    let mut page_token = String::new();
    loop {
        let missing = limit.saturating_sub(u32::try_from(entries.len()).unwrap_or(u32::MAX));
        let page_size = missing.min(PAGE_SIZE).cast_signed();
        let mut answer = ask(page_size, page_token).await?;
        let (came, next) = parts(&mut answer);
        entries.append(came);
        page_token = std::mem::take(next);
        if page_token.is_empty() || entries.len() >= limit as usize {
            return Ok((entries, answer));
        }
    }
}

/// How many of how many are shown.
pub(crate) fn shown(count: usize, total: i32, what: &str) -> String {
    let total = usize::try_from(total).unwrap_or(0);
    if count < total {
        format!(
            "{count} of {}; --limit shows more",
            table::count(total, what)
        )
    } else {
        table::count(count, what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server with so many entries; each answer says what it was asked.
    async fn read_of(there: usize, limit: u32) -> (Vec<usize>, Vec<(i32, String)>) {
        let mut asked = Vec::new();
        let read = read(
            limit,
            async |size, token: String| {
                asked.push((size, token.clone()));
                let from: usize = token.parse().unwrap_or(0);
                let to = there.min(from + usize::try_from(size).unwrap());
                let next = if to < there {
                    to.to_string()
                } else {
                    String::new()
                };
                Ok::<_, ()>(((from..to).collect::<Vec<_>>(), next))
            },
            |(entries, next)| (entries, next),
        );
        (read.await.unwrap().0, asked)
    }

    #[tokio::test]
    async fn pages_are_read_until_there_are_enough_or_no_more() {
        let page = |size, token: &str| (size, token.to_owned());
        let (entries, asked) = read_of(2_500, 100_000).await;
        assert_eq!(entries, (0..2_500).collect::<Vec<_>>());
        let expected = [page(1_000, ""), page(1_000, "1000"), page(1_000, "2000")];
        assert_eq!(asked, expected);
        let (entries, asked) = read_of(2_500, 1_200).await;
        assert_eq!(
            (entries.len(), asked),
            (1_200, vec![page(1_000, ""), page(200, "1000")])
        );
        assert_eq!(read_of(0, 5).await, (vec![], vec![page(5, "")]));
        assert_eq!(shown(3, 7, "schema"), "3 of 7 schemas; --limit shows more");
        assert_eq!(shown(1, 1, "icon"), "1 icon");
    }
}
