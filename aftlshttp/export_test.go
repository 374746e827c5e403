package aftlshttp

// Native is native, for tests.
const Native = native
