//! The frame of a page: head, style, headline, links to the sections.

use super::html::escape;
use std::fmt::Write;

/// What stands around the sections of a page.
#[derive(Clone, Debug, Default)]
pub(crate) struct Page<'a> {
    /// Small line above the headline, and the window's title.
    pub(crate) title: &'a str,
    /// What the page is about: a run, or two policies.
    pub(crate) name: &'a str,
    /// The headline.
    pub(crate) headline: &'a str,
    /// Sentences under it.
    pub(crate) sentences: &'a [String],
    /// HTML behind the name in the last line of the head.
    pub(crate) notes: String,
    /// Style after the common one.
    pub(crate) style: &'a str,
}

impl Page<'_> {
    /// The page with these sections: id, heading, HTML.
    pub(crate) fn with(&self, sections: &[(&str, &str, String)]) -> String {
        let mut out = String::with_capacity(1 << 18);
        let (title, name) = (escape(self.title), escape(self.name));
        let _ = write!(
            out,
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title} · {name}</title>\n\
             <style>\n{}{}</style>\n</head>\n<body>\n<header>\n<p class=\"eyebrow\">{title}</p>\n<h1>{}</h1>\n",
            include_str!("style.css"),
            self.style,
            escape(self.headline),
        );
        for sentence in self.sentences {
            let _ = writeln!(out, "<p class=\"lede\">{}</p>", escape(sentence));
        }
        let notes = &self.notes;
        let _ = writeln!(out, "<p class=\"meta\"><span class=\"mono\">{name}</span>{notes}</p>");
        out.push_str("</header>\n<nav aria-label=\"Sections\">");
        for (id, name, _) in sections {
            let _ = write!(out, "<a href=\"#{id}\">{name}</a>");
        }
        out.push_str("</nav>\n<main>\n");
        for (id, name, body) in sections {
            let _ = write!(out, "<section id=\"{id}\">\n<h2>{name}</h2>\n{body}</section>\n");
        }
        out.push_str("</main>\n</body>\n</html>\n");
        out
    }
}
