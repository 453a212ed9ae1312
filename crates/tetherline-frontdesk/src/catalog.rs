//! What a prompt can be about: the closed sets of slot values.
//!
//! Every slot has a [`Kind`]. A kind is a closed vocabulary (or "any number"), so the rubric can tell a
//! *wrong* value (another word of the same kind) from a *missing* one without knowing the template.
//! **Invariant** (tested): no word of a kind occurs in the fixed text of an answer that uses this kind,
//! nor in any greeting, courtesy, filler, hedge, refusal or sign-off.

use tetherline_core::seeds::Stream;

/// The closed vocabulary a slot takes its value from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Order number, three digits.
    Order,
    /// Amount in dollars, two digits.
    Amount,
    /// A small count, 2 to 9, as a digit.
    Count,
    /// Color and thing, e.g. `blue lamp`.
    Item,
    /// Day of the week.
    Day,
    /// First name.
    Name,
    /// City.
    City,
    /// Subscription plan.
    Plan,
    /// Something that hurts.
    Symptom,
    /// Something from the pharmacy.
    Medicine,
    /// Legal document.
    Document,
    /// Name of a variable.
    Variable,
    /// Programming language.
    Language,
    /// Hobby.
    Hobby,
}

pub(crate) const COLORS: &[&str] = &[
    "blue", "red", "green", "black", "white", "gray", "yellow", "purple", "brown", "pink", "silver", "beige",
];
pub(crate) const THINGS: &[&str] = &[
    "lamp", "chair", "table", "jacket", "kettle", "clock", "mirror", "backpack", "sofa", "shelf", "blanket",
    "camera", "radio", "pillow", "bicycle", "teapot", "vase", "rug", "scarf", "toaster", "umbrella",
    "guitar", "helmet", "tent", "wallet", "speaker", "stool", "basket", "mug", "printer",
];
pub(crate) const DAYS: &[&str] =
    &["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
pub(crate) const NAMES: &[&str] = &[
    "Anna", "Ben", "Carla", "David", "Elena", "Frank", "Gina", "Hugo", "Irene", "Jonas", "Karin", "Leo",
    "Maria", "Nina", "Oscar", "Paula", "Quinn", "Rosa", "Simon", "Tara", "Ursula", "Victor", "Wanda",
    "Xavier", "Yara", "Zoe", "Albert", "Bella", "Carlos", "Diana", "Emil", "Fiona", "Georg", "Helen", "Ivan",
    "Julia",
];
pub(crate) const CITIES: &[&str] = &[
    "Oslo", "Paris", "Rome", "Berlin", "Madrid", "Vienna", "Prague", "Dublin", "Lisbon", "Athens", "Boston",
    "Denver", "Chicago", "Dallas", "Seattle", "Toronto", "Sydney", "Cairo", "Lima", "Delhi", "Tokyo",
    "Seoul", "Geneva", "Milan", "Austin",
];
pub(crate) const PLANS: &[&str] =
    &["basic", "family", "student", "business", "premium", "starter", "weekend"];
pub(crate) const SYMPTOMS: &[&str] = &[
    "headache",
    "cough",
    "fever",
    "rash",
    "toothache",
    "backache",
    "earache",
    "cramp",
    "sunburn",
    "blister",
    "bruise",
    "migraine",
    "nosebleed",
    "allergy",
    "heartburn",
    "insomnia",
];
pub(crate) const MEDICINES: &[&str] = &[
    "aspirin",
    "ibuprofen",
    "paracetamol",
    "melatonin",
    "antacids",
    "zinc",
    "magnesium",
    "iron",
    "probiotics",
    "antihistamine",
    "lozenges",
    "ointment",
];
pub(crate) const DOCUMENTS: &[&str] = &[
    "lease",
    "invoice",
    "warranty",
    "permit",
    "license",
    "contract",
    "waiver",
    "deed",
    "patent",
    "trademark",
    "bond",
    "visa",
    "testament",
    "mortgage",
];
pub(crate) const VARIABLES: &[&str] = &[
    "prices", "scores", "rows", "pages", "tags", "events", "points", "keys", "notes", "cards", "users",
    "totals", "labels", "tokens", "orders", "dates", "weights", "ages", "lines", "votes",
];
pub(crate) const LANGUAGES: &[&str] =
    &["Python", "Rust", "Java", "Ruby", "Kotlin", "Swift", "Perl", "Scala", "Haskell", "Lua", "Dart"];
pub(crate) const HOBBIES: &[&str] = &[
    "gardening",
    "chess",
    "painting",
    "cooking",
    "hiking",
    "fishing",
    "knitting",
    "dancing",
    "cycling",
    "swimming",
    "reading",
    "singing",
    "baking",
    "sailing",
    "skiing",
    "yoga",
    "pottery",
    "juggling",
];

impl Kind {
    /// Draws a value.
    pub fn draw(self, s: &mut Stream) -> String {
        match self {
            Kind::Order => (100 + s.below(900)).to_string(),
            Kind::Amount => (11 + s.below(89)).to_string(),
            Kind::Count => (2 + s.below(8)).to_string(),
            Kind::Item => format!("{} {}", s.pick(COLORS), s.pick(THINGS)),
            _ => (*s.pick(self.values())).to_owned(),
        }
    }

    /// The list behind a one-word kind; empty for numbers and items.
    fn values(self) -> &'static [&'static str] {
        match self {
            Kind::Order | Kind::Amount | Kind::Count | Kind::Item => &[],
            Kind::Day => DAYS,
            Kind::Name => NAMES,
            Kind::City => CITIES,
            Kind::Plan => PLANS,
            Kind::Symptom => SYMPTOMS,
            Kind::Medicine => MEDICINES,
            Kind::Document => DOCUMENTS,
            Kind::Variable => VARIABLES,
            Kind::Language => LANGUAGES,
            Kind::Hobby => HOBBIES,
        }
    }

    /// Whether a normalised (lower-case) word belongs to this kind.
    pub fn contains(self, word: &str) -> bool {
        match self {
            Kind::Order | Kind::Amount | Kind::Count => {
                !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit())
            }
            Kind::Item => COLORS.contains(&word) || THINGS.contains(&word),
            _ => self.values().iter().any(|v| v.eq_ignore_ascii_case(word)),
        }
    }

    /// Every kind.
    pub const ALL: [Kind; 14] = [
        Kind::Order,
        Kind::Amount,
        Kind::Count,
        Kind::Item,
        Kind::Day,
        Kind::Name,
        Kind::City,
        Kind::Plan,
        Kind::Symptom,
        Kind::Medicine,
        Kind::Document,
        Kind::Variable,
        Kind::Language,
        Kind::Hobby,
    ];
}

/// Every word a slot can hold, numbers aside.
pub(crate) fn all_words() -> impl Iterator<Item = &'static str> {
    let lists = Kind::ALL.into_iter().flat_map(|k| k.values().iter().copied());
    lists.chain(COLORS.iter().copied()).chain(THINGS.iter().copied())
}
