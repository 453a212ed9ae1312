//! Where a shared prompt ends when `chosen` and `rejected` are whole conversations.
//!
//! The cut is the **last shared turn boundary**: both conversations are the same up to it, and after it
//! the assistant speaks. A longest common character prefix (TRL's `extract_prompt`) would hand the
//! beginning of an answer to the prompt whenever both answers start alike ("I" of "I'm sorry" and
//! "I can"), so that the policy would be asked to go on in the middle of a word.
//!
//! Transcripts are in the form of HH-RLHF (Bai et al. 2022, arXiv:2204.05862):
//! `"\n\nHuman: … \n\nAssistant: … \n\nHuman: … \n\nAssistant: …"`. The prompt keeps the final
//! `"\n\nAssistant:"`; the answer starts with what follows, usually a space.

use crate::Message;

/// What opens a turn of the assistant.
const ASSISTANT: &str = "\n\nAssistant:";

/// Whether `text` is a transcript in the HH-RLHF form.
pub(crate) fn is_transcript(text: &str) -> bool {
    text.starts_with("\n\nHuman:") || text.starts_with("Human:")
}

/// Whether a prompt stops where the assistant is about to speak.
pub(crate) fn ends_at_boundary(prompt: &str) -> bool {
    prompt.trim_end().ends_with(ASSISTANT)
}

/// Byte offset just behind the last `"\n\nAssistant:"` that both transcripts share, with all before it.
pub(crate) fn last_shared_boundary(a: &str, b: &str) -> Option<usize> {
    let shared = a.bytes().zip(b.bytes()).take_while(|(x, y)| x == y).count();
    // The marker is ASCII, so the offset is a character boundary even where `shared` is not.
    let windows = a.as_bytes()[..shared].windows(ASSISTANT.len());
    windows.enumerate().rev().find(|(_, w)| *w == ASSISTANT.as_bytes()).map(|(i, _)| i + ASSISTANT.len())
}

/// Number of leading messages that both lists share, such that an assistant message follows in both.
pub(crate) fn shared_messages(a: &[Message], b: &[Message]) -> Option<usize> {
    let shared = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    let follows = |list: &[Message], n: usize| list.get(n).is_some_and(Message::is_assistant);
    (1..=shared).rev().find(|&n| follows(a, n) && follows(b, n))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_cut_is_a_turn_boundary_and_not_a_common_prefix() {
        let a = "\n\nHuman: Hi\n\nAssistant: I’m here.\n\nHuman: Bye\n\nAssistant: I’ll miss you.";
        let b = "\n\nHuman: Hi\n\nAssistant: I’m here.\n\nHuman: Bye\n\nAssistant: I\u{201c}see\u{201d}.";
        let cut = last_shared_boundary(a, b).unwrap();
        assert_eq!(&a[..cut], "\n\nHuman: Hi\n\nAssistant: I’m here.\n\nHuman: Bye\n\nAssistant:");
        assert_eq!(&b[cut..], " I\u{201c}see\u{201d}.");
        // They part inside the human's second turn: the first answer is the last shared boundary.
        let c = "\n\nHuman: Hi\n\nAssistant: I’m here.\n\nHuman: Boo\n\nAssistant: Ah!";
        assert_eq!(&c[..last_shared_boundary(a, c).unwrap()], "\n\nHuman: Hi\n\nAssistant:");
        // The marker itself is cut off, or there is none.
        assert_eq!(last_shared_boundary("\n\nHuman: Hi\n\nAssis", "\n\nHuman: Hi\n\nAssistant: x"), None);
        assert_eq!(last_shared_boundary("a", "a"), None);
    }

    #[test]
    fn message_lists_are_cut_before_an_assistant_message() {
        let (u, a) = (Message::user, Message::assistant);
        let x = [u("1"), a("2"), u("3"), a("4")];
        assert_eq!(shared_messages(&x, &[u("1"), a("2"), u("3"), a("5")]), Some(3));
        assert_eq!(shared_messages(&x, &[u("1"), a("2"), u("9"), a("4")]), Some(1));
        assert_eq!(shared_messages(&x, &x), Some(3), "identical lists keep their last answer");
        assert_eq!(shared_messages(&x, &[u("0"), a("2")]), None);
        assert_eq!(shared_messages(&[a("1")], &[a("2")]), None, "nothing shared");
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_a_longer_shared_start_moves_no_cut(
            start in "[ a-zé’]{0,9}", x in "[ a-zé’]{0,9}", y in "[ a-zé’]{0,9}",
        ) {
            let prompt = "\n\nHuman: q\n\nAssistant:";
            let (a, b) = (format!("{prompt}{start}{x}"), format!("{prompt}{start}{y}"));
            prop_assert_eq!(last_shared_boundary(&a, &b), Some(prompt.len()));
        }
    }
}
