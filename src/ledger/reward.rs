//! Who is paid what at the end of an epoch.
