//! The shape of a request and of an answer, and the answer to a request that is refused.

use http::{Method, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::admin::wire::query::encode_query;

/// A request to the admin socket.
pub trait AdminRequest: Sized {
    /// The method it is made with.
    const METHOD: Method;
    /// Its path, without parameters.
    const PATH: &'static str;
    /// The type of its answers.
    type Answer: AdminAnswer;

    /// Its parameters by name, in the order of the documentation. Defaults are left out.
    fn parameters(&self) -> Vec<(&'static str, String)>;

    /// Reads the query of a request target.
    ///
    /// # Errors
    /// A sentence that names the wrong parameter and says what to write.
    fn parse(query: &str) -> Result<Self, String>;

    /// Whether `answer` belongs to this request, and not to one with other parameters.
    fn is_answered_by(&self, _answer: &Self::Answer) -> bool {
        true
    }

    /// The body. `None` means that there is none, as of every request but one.
    fn body(&self) -> Option<Vec<u8>> {
        None
    }

    /// The request target: the path with the encoded parameters.
    fn target(&self) -> String {
        format!("{}{}", Self::PATH, encode_query(&self.parameters()))
    }
}

/// An answer of the admin socket.
pub trait AdminAnswer: Serialize + DeserializeOwned {
    /// The HTTP status that it is sent with.
    fn status(&self) -> StatusCode {
        StatusCode::OK
    }

    /// A sentence about fields that contradict each other. `None` means that they agree.
    fn contradiction(&self) -> Option<&'static str> {
        None
    }
}

/// A request that could not be answered, or not in this way: the body of every 4xx and 5xx but 422.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ErrorAnswer {
    /// A sentence that names the fault and the remedy.
    pub error: String,
}
