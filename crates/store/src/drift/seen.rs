//! Who saw which resources, without a row for each.
//!
//! While an inventory runs, each call that reports within it leaves the numbers that it named. When it is to end as complete, they
//! become bits, 4,096 resources a row, so that what it missed is found by going through its scope once and who saw a resource last by
//! reading one row. An inventory of 100,000 resources in which nothing is new writes a few hundred rows in all.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use sqlx::FromRow;

use crate::{
    Error,
    engine::{Db, Tx, statements},
};

/// Resources in one block.
const BLOCK: i64 = 4_096;

/// Bytes of the bits of a block.
const BLOCK_BYTES: usize = 512;

/// Pages read at a time.
const PAGES: i64 = 200;

statements! {
    /// Adds what one call reported, unless it was added before.
    ADD = "drift_seen_add" => [
        "INSERT INTO drift_seen (inventory, first_key, last_key, reported, changed, time_us, write_id, keys, wrote, news) \
         VALUES ($1, $2, $3, $4, $5, " now ", $6, $7, $8, $9) ON CONFLICT (inventory, write_id) DO NOTHING"
    ];
    /// Of which resources calls may have brought the news that they came or went.
    NEWS_OF = "drift_seen_news" => [
        "SELECT write_id, news AS keys FROM drift_seen WHERE inventory = $1 AND write_id > $2 ORDER BY write_id LIMIT $3"
    ];
    /// Of which resources some calls wrote the rows.
    WROTE_OF = "drift_seen_wrote" => [
        "SELECT write_id, wrote AS keys FROM drift_seen WHERE inventory = $1 ORDER BY write_id LIMIT $2"
    ];
    /// Drops one call.
    DROP_CALL = "drift_seen_drop_call" => ["DELETE FROM drift_seen WHERE inventory = $1 AND write_id = $2"];
    /// What calls reported.
    PAGES_OF = "drift_seen_pages" => [
        "SELECT write_id, keys FROM drift_seen WHERE inventory = $1 AND write_id > $2 ORDER BY write_id LIMIT $3"
    ];
    /// What calls reported that may have named some of these.
    PAGES_WITH = "drift_seen_pages_with" => [
        "SELECT write_id, keys FROM drift_seen WHERE inventory = $1 AND last_key >= $2 AND first_key <= $3"
    ];
    /// Drops some calls: all, or those that wrote nothing.
    DROP = "drift_seen_drop" => [
        "DELETE FROM drift_seen WHERE inventory = $1 AND write_id IN \
         (SELECT write_id FROM drift_seen WHERE inventory = $1 AND ($3 OR length(wrote) = 0) ORDER BY write_id LIMIT $2)"
    ];
    /// Keeps the bits of a block.
    PUT = "drift_seen_block_put" => [
        "INSERT INTO drift_seen_block (inventory, block, bits) VALUES ($1, $2, $3) \
         ON CONFLICT (inventory, block) DO UPDATE SET bits = excluded.bits"
    ];
    /// The bits of one block, of complete inventories of a provider, the newest first.
    LAST = "drift_seen_last" => [
        postgres {
            "SELECT i.id, i.start_us, b.bits FROM drift_seen_block b CROSS JOIN LATERAL \
             (SELECT * FROM drift_inventory i WHERE i.key = b.inventory LIMIT 1) i \
             WHERE b.block = $2 AND i.provider = $1 AND i.state = 'complete' ORDER BY i.start_us DESC"
        }
        sqlite {
            "SELECT i.id, i.start_us, b.bits FROM drift_seen_block b CROSS JOIN drift_inventory i ON i.key = b.inventory \
             WHERE b.block = $2 AND i.provider = $1 AND i.state = 'complete' ORDER BY i.start_us DESC"
        }
    ];
    /// The bits of some blocks of one inventory.
    BLOCKS = "drift_seen_blocks" => [
        "SELECT block, bits FROM drift_seen_block WHERE inventory = $1 AND block BETWEEN $2 AND $3"
    ];
    /// Drops the bits of inventories.
    DROP_BLOCKS = "drift_seen_drop_blocks" => ["DELETE FROM drift_seen_block WHERE inventory = $1"];
}

/// A set of resources.
#[derive(Debug, Default)]
pub(super) struct KeySet {
    blocks: BTreeMap<i64, Vec<u8>>,
}

#[derive(FromRow)]
struct PageRow {
    write_id: String,
    keys: Vec<u8>,
}

#[derive(FromRow)]
struct LastRow {
    id: String,
    start_us: i64,
    bits: Vec<u8>,
}

#[derive(FromRow)]
struct BlockRow {
    block: i64,
    bits: Vec<u8>,
}

// === impl KeySet ===

impl KeySet {
    pub(super) fn insert(&mut self, key: i64) {
        let bits = self
            .blocks
            .entry(key.div_euclid(BLOCK))
            .or_insert_with(|| vec![0; BLOCK_BYTES]);
        let bit = bit(key);
        bits[bit / 8] |= 1 << (bit % 8);
    }

    pub(super) fn contains(&self, key: i64) -> bool {
        self.blocks
            .get(&key.div_euclid(BLOCK))
            .is_some_and(|bits| has(bits, key))
    }
}

/// Which bit of its block a resource has.
fn bit(key: i64) -> usize {
    usize::try_from(key.rem_euclid(BLOCK)).unwrap_or(0)
}

fn has(bits: &[u8], key: i64) -> bool {
    let bit = bit(key);
    bits.get(bit / 8)
        .is_some_and(|byte| byte & (1 << (bit % 8)) != 0)
}

/// Ascending numbers as differences in LEB128.
pub(super) fn encode(keys: &[i64]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(keys.len() + 8);
    let mut before = 0;
    for &key in keys {
        let mut rest = key.abs_diff(before);
        before = key;
        loop {
            let low = (rest & 0x7f) as u8;
            rest >>= 7;
            if rest == 0 {
                bytes.push(low);
                break;
            }
            bytes.push(low | 0x80);
        }
    }
    bytes
}

fn decode(bytes: &[u8]) -> impl Iterator<Item = i64> + '_ {
    let (mut key, mut difference, mut shift) = (0_i64, 0_u64, 0);
    bytes.iter().filter_map(move |byte| {
        difference |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 != 0 {
            shift = (shift + 7).min(63);
            return None;
        }
        key = key.wrapping_add_unsigned(difference);
        (difference, shift) = (0, 0);
        Some(key)
    })
}

/// What one call did; all numbers of resources ascend.
#[derive(Debug, Default)]
pub(super) struct Call {
    /// It named these as being there.
    pub(super) saw: Vec<i64>,
    /// It wrote the rows of these.
    pub(super) wrote: Vec<i64>,
    /// These of them may have come or gone.
    pub(super) news: Vec<i64>,
    /// So many reports were new.
    pub(super) changed: i64,
}

/// Adds what one call did.
pub(super) async fn add(
    tx: &mut Tx,
    inventory: i64,
    write_id: &str,
    call: &Call,
) -> Result<(), Error> {
    tx.statement(&ADD)
        .bind(inventory)
        .bind(call.saw.first().copied().unwrap_or(0))
        .bind(call.saw.last().copied().unwrap_or(0))
        .bind(super::count(call.saw.len()))
        .bind(call.changed)
        .bind(write_id)
        .bind(encode(&call.saw))
        .bind(encode(&call.wrote))
        .bind(encode(&call.news))
        .execute()
        .await?;
    Ok(())
}

/// Of which resources an inventory may have brought the news that they came or went.
pub(super) async fn news(db: &Db, inventory: i64) -> Result<BTreeSet<i64>, Error> {
    let mut news = BTreeSet::new();
    let mut after = String::new();
    loop {
        let calls = db.read(&NEWS_OF).bind(inventory).bind(&after);
        let calls: Vec<PageRow> = calls.bind(PAGES).all().await?;
        news.extend(calls.iter().flat_map(|call| decode(&call.keys)));
        match calls.into_iter().next_back() {
            Some(last) => after = last.write_id,
            None => return Ok(news),
        }
    }
}

/// Some calls of an inventory, each with the resources whose rows it wrote.
pub(super) async fn wrote(
    db: &Db,
    inventory: i64,
    most: i64,
) -> Result<Vec<(String, Vec<i64>)>, Error> {
    let calls = db.read(&WROTE_OF).bind(inventory).bind(most);
    let calls: Vec<PageRow> = calls.all().await?;
    let wrote = calls
        .into_iter()
        .map(|call| (call.write_id, decode(&call.keys).collect()));
    Ok(wrote.collect())
}

/// Drops one call.
pub(super) async fn drop_call(tx: &mut Tx, inventory: i64, write_id: &str) -> Result<(), Error> {
    let dropped = tx.statement(&DROP_CALL).bind(inventory).bind(write_id);
    dropped.execute().await?;
    Ok(())
}

/// All that an inventory reported.
pub(super) async fn collect(tx: &mut Tx, inventory: i64) -> Result<KeySet, Error> {
    let mut set = KeySet::default();
    let mut after = String::new();
    loop {
        let pages: Vec<PageRow> = tx
            .statement(&PAGES_OF)
            .bind(inventory)
            .bind(&after)
            .bind(PAGES)
            .all()
            .await?;
        for page in &pages {
            decode(&page.keys).for_each(|key| set.insert(key));
        }
        match pages.into_iter().next_back() {
            Some(last) => after = last.write_id,
            None => return Ok(set),
        }
    }
}

/// The same, of one whose calls have become bits.
pub(super) async fn kept(db: &Db, inventory: i64) -> Result<KeySet, Error> {
    let blocks = db.read(&BLOCKS).bind(inventory).bind(i64::MIN);
    let blocks: Vec<BlockRow> = blocks.bind(i64::MAX).all().await?;
    let blocks = blocks.into_iter().map(|row| (row.block, row.bits));
    Ok(KeySet {
        blocks: blocks.collect(),
    })
}

/// Which of these ascending numbers an inventory that runs or is complete has seen.
pub(super) async fn seen_of(tx: &mut Tx, inventory: i64, keys: &[i64]) -> Result<KeySet, Error> {
    let mut set = KeySet::default();
    let (Some(&first), Some(&last)) = (keys.first(), keys.last()) else {
        return Ok(set);
    };
    let pages = tx.statement(&PAGES_WITH).bind(inventory);
    let pages: Vec<PageRow> = pages.bind(first).bind(last).all().await?;
    for page in &pages {
        decode(&page.keys).for_each(|key| set.insert(key));
    }
    let (low, high) = (first.div_euclid(BLOCK), last.div_euclid(BLOCK));
    let blocks = tx.statement(&BLOCKS).bind(inventory).bind(low).bind(high);
    let blocks: Vec<BlockRow> = blocks.all().await?;
    for block in blocks {
        set.blocks.insert(block.block, block.bits);
    }
    Ok(set)
}

/// Keeps what an inventory saw as bits.
pub(super) async fn keep(tx: &mut Tx, inventory: i64, seen: &KeySet) -> Result<(), Error> {
    for (block, bits) in &seen.blocks {
        let put = tx.statement(&PUT).bind(inventory).bind(*block);
        put.bind(bits.clone()).execute().await?;
    }
    Ok(())
}

/// Drops what some calls of an inventory reported: of all calls, or only of those that wrote nothing. Returns how many.
pub(super) async fn drop_calls(
    tx: &mut Tx,
    inventory: i64,
    all: bool,
    most: usize,
) -> Result<usize, Error> {
    let dropped = tx.statement(&DROP).bind(inventory);
    let dropped = dropped.bind(super::count(most)).bind(all);
    let dropped = dropped.execute().await?;
    Ok(usize::try_from(dropped).unwrap_or(usize::MAX))
}

/// Drops the bits of an inventory.
pub(super) async fn drop_blocks(tx: &mut Tx, inventory: i64) -> Result<(), Error> {
    let dropped = tx.statement(&DROP_BLOCKS).bind(inventory);
    dropped.execute().await?;
    Ok(())
}

/// The newest complete inventory that saw a resource: its id and when it began.
pub(super) async fn last_seen(
    db: &Db,
    provider: &str,
    key: i64,
) -> Result<Option<(String, i64)>, Error> {
    let rows = db.read(&LAST).bind(provider).bind(key.div_euclid(BLOCK));
    let rows: Vec<LastRow> = rows.all().await?;
    let saw = rows.into_iter().find(|row| has(&row.bits, key));
    Ok(saw.map(|row| (row.id, row.start_us)))
}

/// The same for many resources, each with its provider.
pub(super) async fn last_seen_of(
    tx: &mut Tx,
    wanted: BTreeSet<(String, i64)>,
) -> Result<HashMap<i64, (String, i64)>, Error> {
    let mut seen = HashMap::new();
    let mut blocks: HashMap<(String, i64), Vec<i64>> = HashMap::new();
    for (provider, key) in wanted {
        let block = (provider, key.div_euclid(BLOCK));
        blocks.entry(block).or_default().push(key);
    }
    for ((provider, block), keys) in blocks {
        let rows = tx.statement(&LAST).bind(provider).bind(block);
        let rows: Vec<LastRow> = rows.all().await?;
        for key in keys {
            if let Some(row) = rows.iter().find(|row| has(&row.bits, key)) {
                seen.insert(key, (row.id.clone(), row.start_us));
            }
        }
    }
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_survive_being_encoded() {
        let keys = [1, 2, 127, 128, 4_095, 4_096, 5_000_000_000, i64::MAX];
        assert_eq!(decode(&encode(&keys)).collect::<Vec<_>>(), keys);
        let mut set = KeySet::default();
        keys.iter().for_each(|&key| set.insert(key));
        assert!(keys.iter().all(|&key| set.contains(key)));
        assert!(
            ![0, 3, 126, 4_094, 4_097]
                .iter()
                .any(|&key| set.contains(key))
        );
    }
}
