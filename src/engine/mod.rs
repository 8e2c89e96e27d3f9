//! The rules. Pure: no pgrx, no clock, no SQL; every time and every row is an argument.
