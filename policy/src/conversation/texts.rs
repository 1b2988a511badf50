//! What is said: plain small talk between colleagues, put together from lists.
//!
//! Each of the topics has its own subjects, openings, questions, answers and follow-ups; greetings, bridges
//! and closings are shared. An opening alone has over ten thousand forms, a whole thread far more. No text
//! sells, links, claims a fact about a third party or pretends to be anything but a short note.

use crate::dice::Dice;

/// Marks the stream of a thread's topic and subject: the same for all its turns.
const TOPIC: u64 = 11;
/// Marks the stream of one turn's words.
const WORDS: u64 = 12;

/// What one message of a thread says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// Its subject; `Re: …` from the second message on.
    pub subject: String,
    /// Its plain text, lines ended by `\n`.
    pub text: String,
}

struct Topic {
    subjects: &'static [&'static str],
    openings: &'static [&'static str],
    questions: &'static [&'static str],
    answers: &'static [&'static str],
    followups: &'static [&'static str],
}

/// The words of the `turn`-th message (the first is 1) of a thread of so many turns.
pub fn compose(thread_seed: u64, turn: u8, turns: u8, from_name: &str, to_name: &str) -> Turn {
    let mut of_thread = Dice::of(thread_seed, &[TOPIC]);
    let topic = of_thread.pick(&TOPICS);
    let subject = *of_thread.pick(topic.subjects);
    // Where in its list a later turn begins, so that a thread does not say the same thing twice.
    let offset = of_thread.next_u64();
    let dice = &mut Dice::of(thread_seed, &[WORDS, turn.into()]);
    let body = if turn <= 1 {
        format!(
            "{} {}",
            dice.pick(topic.openings),
            dice.pick(topic.questions)
        )
    } else {
        answer(topic, turn, turn >= turns, offset, dice)
    };
    let (greeting, closing) = (
        greeting(first_name(to_name), turn, dice),
        *dice.pick(&CLOSINGS),
    );
    let text = format!(
        "{greeting}\n\n{body}\n\n{closing}\n{}\n",
        first_name(from_name)
    );
    let subject = if turn <= 1 {
        subject.to_owned()
    } else {
        format!("Re: {subject}")
    };
    Turn { subject, text }
}

/// A later turn: the one who was asked answers, the one who asked follows up; the last turn thanks.
fn answer(topic: &Topic, turn: u8, last: bool, offset: u64, dice: &mut Dice) -> String {
    let of = |list: &'static [&'static str]| {
        let place = offset.wrapping_add(u64::from(turn / 2)) % (list.len().max(1) as u64);
        list[usize::try_from(place).expect("below the length of a list")]
    };
    let said = of(if turn.is_multiple_of(2) {
        topic.answers
    } else {
        topic.followups
    });
    let bridge = *dice.pick(&BRIDGES);
    let end = if last {
        *dice.pick(&ENDINGS)
    } else {
        *dice.pick(&RETURNS)
    };
    format!("{bridge} {said}\n\n{end}")
}

fn greeting(name: &str, turn: u8, dice: &mut Dice) -> String {
    if name.is_empty() {
        return "Hello,".into();
    }
    let forms: &[&str] = if turn <= 1 {
        &GREETINGS
    } else {
        &SHORT_GREETINGS
    };
    dice.pick(forms).replace("{}", name)
}

/// The first word of a display name, without signs that have a meaning in headers.
fn first_name(name: &str) -> &str {
    let first = name.split_whitespace().next().unwrap_or("");
    first.trim_matches(|sign: char| !sign.is_alphanumeric())
}

const GREETINGS: [&str; 6] = [
    "Hi {},",
    "Hello {},",
    "Good day {},",
    "Hey {},",
    "Dear {},",
    "Hi there {},",
];

const SHORT_GREETINGS: [&str; 5] = ["Hi {},", "{},", "Hey {},", "Hello {},", "Hi again {},"];

const CLOSINGS: [&str; 8] = [
    "Best,",
    "Best regards,",
    "Kind regards,",
    "Cheers,",
    "Thanks,",
    "Talk soon,",
    "All the best,",
    "Many thanks,",
];

const BRIDGES: [&str; 8] = [
    "Thanks for the note.",
    "Good to hear from you.",
    "Thanks for getting back to me.",
    "I appreciate the quick word.",
    "That was helpful.",
    "Sorry, I only got to this now.",
    "Thanks for writing.",
    "Good question, I had to think about it.",
];

const RETURNS: [&str; 7] = [
    "What do you think?",
    "Does that match your experience?",
    "How do you handle it on your side?",
    "Would you do it differently?",
    "Let me know how you see it.",
    "I would be glad to hear your view.",
    "Curious what you make of it.",
];

const ENDINGS: [&str; 7] = [
    "That settles it for me, thank you.",
    "I will give it a try and tell you how it went.",
    "Let us leave it at that for now.",
    "Thanks again, this helped.",
    "No need to answer, have a good day.",
    "I think we are on the same page.",
    "We can pick it up again next time we talk.",
];

const TOPICS: [Topic; 12] = [
    Topic {
        subjects: &[
            "Planning the week",
            "How do you plan your week?",
            "Monday planning",
            "A question about planning",
        ],
        openings: &[
            "I am trying to plan my week a little better.",
            "My calendar has become rather crowded lately.",
            "I have been moving things around in my calendar all morning.",
            "I would like to keep one free morning each week.",
        ],
        questions: &[
            "Do you plan day by day or the whole week at once?",
            "Do you block time for quiet work?",
            "Is there a day you keep free of meetings?",
            "What works for you?",
        ],
        answers: &[
            "I write down three things on Monday and leave the rest open.",
            "I keep the mornings for quiet work and put calls after lunch.",
            "A paper list works better for me than any calendar.",
            "I plan the next day in the last ten minutes of each day.",
        ],
        followups: &[
            "Three things sounds about right, I usually write down ten.",
            "I will try to keep the mornings free, at least twice a week.",
            "The last ten minutes of the day is a good moment for it.",
        ],
    },
    Topic {
        subjects: &[
            "Meeting notes",
            "How do you take notes?",
            "Notes from meetings",
            "Short question on notes",
        ],
        openings: &[
            "I keep losing track of what was agreed in meetings.",
            "Our notes have grown long and nobody reads them.",
            "I am looking for a simpler way to keep meeting notes.",
            "Yesterday I could not find a decision we took last month.",
        ],
        questions: &[
            "How long are your notes?",
            "Do you send notes around or keep them in one place?",
            "Who writes them in your team?",
            "Do you have a form that you like?",
        ],
        answers: &[
            "We only write down decisions and who does what.",
            "One page for each subject, newest entry on top, works well here.",
            "We take turns, and nobody writes more than five lines.",
            "I send three lines right after the meeting and that is it.",
        ],
        followups: &[
            "Only decisions and names, that is a good rule.",
            "Taking turns is fair, I will suggest it.",
            "Five lines would be a relief for everybody.",
        ],
    },
    Topic {
        subjects: &[
            "Reading list",
            "Anything good to read?",
            "A book for the train",
            "Looking for something to read",
        ],
        openings: &[
            "I have finished my book and have nothing left for the train.",
            "I would like to read more this season.",
            "My reading list has run dry.",
            "I am looking for something short to read in the evening.",
        ],
        questions: &[
            "Have you read anything good lately?",
            "Do you prefer novels or something about work?",
            "Is there a book you come back to?",
            "Can you suggest something?",
        ],
        answers: &[
            "I mostly read short stories, they fit into a train ride.",
            "I have gone back to old detective novels and enjoy them a lot.",
            "I like travel books, even when I do not travel.",
            "I read one chapter about history each evening.",
        ],
        followups: &[
            "Short stories are a good idea, I had not thought of them.",
            "An old detective novel may be just right for the weekend.",
            "I will look for a travel book in the library.",
        ],
    },
    Topic {
        subjects: &[
            "Lunch break",
            "Where do you have lunch?",
            "Lunch ideas",
            "A walk at noon",
        ],
        openings: &[
            "I want to stop eating at my desk.",
            "I have been bringing my own lunch for two weeks now.",
            "I started to take a short walk at noon.",
            "Lunch has become the shortest part of my day.",
        ],
        questions: &[
            "Do you take a real break?",
            "What do you do for lunch?",
            "Do you cook in advance?",
            "Do you go out or stay in?",
        ],
        answers: &[
            "I go out for twenty minutes whatever the weather is like.",
            "Soup from the evening before is my usual lunch.",
            "We eat together on Thursdays, and I look forward to it.",
            "I try to sit somewhere without a screen.",
        ],
        followups: &[
            "Twenty minutes outside sounds doable.",
            "A common lunch once a week is a nice habit.",
            "No screen at lunch, I will try that from tomorrow.",
        ],
    },
    Topic {
        subjects: &[
            "Shorter meetings",
            "Do we need an hour?",
            "About meeting length",
            "Half-hour meetings",
        ],
        openings: &[
            "I have begun to make meetings half as long.",
            "Most of our meetings end early and still take an hour in the calendar.",
            "I counted my meetings of last week and was surprised.",
            "We are thinking about a day without meetings.",
        ],
        questions: &[
            "How long are yours?",
            "Have you tried something like that?",
            "Do you always send an agenda?",
            "Did it work for you?",
        ],
        answers: &[
            "Twenty-five minutes is our default now, and nobody misses the rest.",
            "Without an agenda we cancel, which happens more often than I thought.",
            "A day without meetings works when everybody keeps to it.",
            "We stand up for the short ones, that helps.",
        ],
        followups: &[
            "Cancelling without an agenda is strict, but I like it.",
            "Twenty-five minutes leaves time to breathe in between.",
            "I will propose a free Wednesday.",
        ],
    },
    Topic {
        subjects: &[
            "Learning something new",
            "Do you take courses?",
            "A language for the evening",
            "On learning",
        ],
        openings: &[
            "I have started to learn a language in the evening.",
            "I would like to learn something that has nothing to do with work.",
            "I signed up for a small course.",
            "I am trying to practise a little every day.",
        ],
        questions: &[
            "Have you learned something new lately?",
            "How do you keep going?",
            "Do you learn better alone or in a group?",
            "How much time do you take for it?",
        ],
        answers: &[
            "A quarter of an hour each day does more for me than a long evening.",
            "I need a group, alone I stop after a week.",
            "I went back to playing the guitar, slowly.",
            "I keep a small notebook, which helps more than any program.",
        ],
        followups: &[
            "A quarter of an hour is about what I can manage too.",
            "Perhaps I should look for a group.",
            "A notebook is a good idea, I will get one.",
        ],
    },
    Topic {
        subjects: &[
            "Working from home",
            "Home office question",
            "Desk at home",
            "Quiet at home",
        ],
        openings: &[
            "I am setting up my desk at home again.",
            "I work from home two days a week now.",
            "It is hard to find a quiet corner at home.",
            "I moved my desk to the window.",
        ],
        questions: &[
            "How do you keep work and evening apart?",
            "Do you have a fixed place to work?",
            "Which days do you stay at home?",
            "Is there something you would not want to miss?",
        ],
        answers: &[
            "I close the door at six, and that is the end of it.",
            "A good chair was the best thing I ever bought for it.",
            "I go to the office when I need people and stay home when I need quiet.",
            "A lamp and a plant made the biggest difference.",
        ],
        followups: &[
            "A fixed end is what I am missing.",
            "I will look at chairs then.",
            "People here and quiet there, that is a good way to see it.",
        ],
    },
    Topic {
        subjects: &[
            "Tidying up files",
            "Where do you keep your files?",
            "Folders and names",
            "A question about order",
        ],
        openings: &[
            "I spent an hour looking for one file.",
            "I am tidying up my folders at last.",
            "Our shared folder has become a maze.",
            "I would like to agree on names for files.",
        ],
        questions: &[
            "Do you sort by date or by subject?",
            "How do you name your files?",
            "Do you ever delete anything?",
            "Is there a rule in your team?",
        ],
        answers: &[
            "The date comes first in the name, everything else sorts itself.",
            "One folder for each year, and what is older goes to the archive.",
            "I search more than I sort these days.",
            "We clean up together on the last Friday of the month.",
        ],
        followups: &[
            "The date first, that is simple enough for everybody.",
            "A common clean-up might even be fun.",
            "I will make an archive for the old years.",
        ],
    },
    Topic {
        subjects: &[
            "Coffee or tea",
            "The coffee machine",
            "A small question about coffee",
            "Tea in the afternoon",
        ],
        openings: &[
            "I am trying to drink less coffee.",
            "I have changed to tea in the afternoon.",
            "Our coffee machine is having a bad week.",
            "I found an old tea pot in the cupboard.",
        ],
        questions: &[
            "Are you for coffee or tea?",
            "How many cups is too many?",
            "Do you have a favourite?",
            "When is your last cup of the day?",
        ],
        answers: &[
            "Two cups before noon, then only tea.",
            "I make it by hand, it is a good excuse for a break.",
            "Green tea took me a while, and now I like it.",
            "My last cup is at two, otherwise I do not sleep.",
        ],
        followups: &[
            "Two before noon sounds like a rule I could keep.",
            "By hand, that would slow me down in a good way.",
            "Two o'clock it is, then.",
        ],
    },
    Topic {
        subjects: &[
            "Getting to work",
            "By bike or by train?",
            "The way to the office",
            "Commuting",
        ],
        openings: &[
            "I have begun to cycle to work when it is dry.",
            "My train has been on time all week.",
            "I changed my way to work and save ten minutes.",
            "I am thinking about walking part of the way.",
        ],
        questions: &[
            "How do you get to work?",
            "How long does it take you?",
            "What do you do on the way?",
            "Do you leave early?",
        ],
        answers: &[
            "I take the train and read, it is my quiet half hour.",
            "I walk the last part, which wakes me up.",
            "I cycle from spring to autumn and take the bus in winter.",
            "I leave early, the streets are empty then.",
        ],
        followups: &[
            "A quiet half hour sounds good to me.",
            "I will get off one stop earlier tomorrow.",
            "Early it is, I will set the clock.",
        ],
    },
    Topic {
        subjects: &[
            "Answering mail",
            "How often do you read mail?",
            "Fewer messages",
            "Mail in the morning",
        ],
        openings: &[
            "I try to read my mail only three times a day.",
            "My mailbox was empty yesterday, for the first time this year.",
            "I am looking for a calmer way to deal with mail.",
            "I have turned off all notifications.",
        ],
        questions: &[
            "How do you do it?",
            "Do you answer at once or in one go?",
            "Do you use folders?",
            "What would you recommend?",
        ],
        answers: &[
            "Short ones at once, long ones in the afternoon.",
            "I have one folder for what waits, and nothing else.",
            "I write shorter answers, and get shorter ones back.",
            "Twice a day is enough, nobody has complained yet.",
        ],
        followups: &[
            "Shorter answers, I should start with this one.",
            "One folder for what waits sounds right.",
            "Twice a day, that takes some courage.",
        ],
    },
    Topic {
        subjects: &[
            "Plans for the weekend",
            "Weekend",
            "A day outside",
            "Something for Saturday",
        ],
        openings: &[
            "I would like to spend a day outside this weekend.",
            "I have no plans for the weekend yet, which is nice.",
            "I want to repair some small things at home on Saturday.",
            "I am looking for a good walk of two or three hours.",
        ],
        questions: &[
            "Do you have anything planned?",
            "Do you have an idea?",
            "What do you like to do on a free day?",
            "Do you make plans or see what comes?",
        ],
        answers: &[
            "I will go for a walk along the water if it stays dry.",
            "I leave Saturday open and do the house on Sunday.",
            "We cook something that takes all afternoon.",
            "I will sort photographs, I have said so for months.",
        ],
        followups: &[
            "Along the water is a good idea.",
            "Cooking all afternoon sounds better than repairing things.",
            "An open Saturday is a luxury, enjoy it.",
        ],
    },
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_same_seed_says_the_same() {
        assert_eq!(
            compose(7, 2, 4, "Ann Lee", "Bo"),
            compose(7, 2, 4, "Ann Lee", "Bo")
        );
    }

    #[test]
    fn a_thread_keeps_its_subject() {
        let first = compose(7, 1, 4, "Ann", "Bo").subject;
        assert!(
            (2..=4).all(|turn| compose(7, turn, 4, "Ann", "Bo").subject == format!("Re: {first}"))
        );
    }

    #[test]
    fn openings_hardly_repeat() {
        let texts: BTreeSet<_> = (0..1000)
            .map(|seed| compose(seed, 1, 3, "Ann", "Bo").text)
            .collect();
        assert!(texts.len() > 900, "{}", texts.len());
        let subjects: BTreeSet<_> = (0..1000)
            .map(|seed| compose(seed, 1, 3, "Ann", "Bo").subject)
            .collect();
        assert!(subjects.len() > 40, "{}", subjects.len());
    }

    #[test]
    fn people_are_called_by_their_first_names() {
        let text = compose(3, 1, 2, "\"Ann\" Lee", "Bo Berg").text;
        assert!(text.contains("Bo,") && text.ends_with("\nAnn\n"), "{text}");
        assert!(compose(3, 1, 2, "Ann", "").text.starts_with("Hello,\n"));
    }

    proptest! {
        #[test]
        fn texts_are_plain(seed: u64, turn in 1_u8..6) {
            let turn = compose(seed, turn, 5, "Ann", "Bo");
            prop_assert!(turn.text.is_ascii() && !turn.text.contains("http"));
            prop_assert!(turn.text.lines().all(|line| line.len() < 200));
            prop_assert!((40..500).contains(&turn.text.len()));
        }
    }
}
