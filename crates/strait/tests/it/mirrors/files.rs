//! Topics in a file, and back.

use strait::mirror::{MirroredTopic, export, import};
use strait::{Kind, Result, Strait};

use super::*;

async fn to_file(from: &Strait) -> Vec<u8> {
    let mut file = Vec::new();
    export(from, &[name("orders")], &mut file).await.unwrap();
    file
}

async fn from_file(to: &Strait, file: &[u8]) -> Result<Vec<MirroredTopic>> {
    import(to, &mut &file[..]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_carries_every_message_as_it_was_and_what_came_before_is_passed_over() {
    for atomic in [true, false] {
        let from = memory();
        let orders = topic(&from, PARTITIONS).await;
        fill(&orders, 40).await;
        let first = to_file(&from).await;
        let before = count(&orders).await;
        // The chunks of the second file begin and end elsewhere.
        fill(&orders, 25).await;
        let second = to_file(&from).await;

        let inner = memory();
        let to = inner_as(&inner, atomic);
        let imported = from_file(&to, &first).await.unwrap();
        assert_eq!(imported[0].messages, before);
        let again = from_file(&to, &first).await.unwrap();
        assert_eq!((again[0].messages, again[0].total), (0, before));
        let all = count(&orders).await;
        let imported = from_file(&to, &second).await.unwrap();
        assert_eq!(imported[0].messages, all - before);
        assert_equal(&from, &inner, all).await;

        // A mirror goes on where the file ends.
        fill(&orders, 1).await;
        let copied = run_once(&from, &to).await.unwrap();
        assert_eq!(copied.topics[0].messages, count(&orders).await - all);
        assert_equal(&from, &inner, count(&orders).await).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_ends_early_or_has_changed_is_told_with_its_place() {
    let from = memory();
    let orders = topic(&from, PARTITIONS).await;
    fill(&orders, 5).await;
    let file = to_file(&from).await;
    let to = memory();
    for cut in [20, file.len() / 3, file.len() / 2, file.len() - 1] {
        let error = from_file(&to, &file[..cut]).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt, "{cut}: {error:?}");
        assert!(error.message().contains("ends at byte"), "{error:?}");
    }
    for at in (0..file.len()).step_by(file.len() / 60) {
        let mut changed = file.clone();
        changed[at] ^= 0x10;
        let error = from_file(&to, &changed).await.unwrap_err();
        let kind = if at < 16 {
            Kind::Rejected
        } else {
            Kind::Corrupt
        };
        assert_eq!(error.kind(), kind, "{at}: {error:?}");
    }
    // Nothing of it did harm: the whole file brings what is missing.
    from_file(&to, &file).await.unwrap();
    assert_equal(&from, &to, count(&orders).await).await;
}
