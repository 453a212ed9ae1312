//! frontdesk: the embedded world of a customer-service assistant, with its gold rubric.
