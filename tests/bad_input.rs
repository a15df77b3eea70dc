//! What a person can get wrong on the command line.
