/**
 * A daemon in memory, for tests of applications: {@link io.github.sessiond.testing.FakeSessiond}. It is held to the real
 * daemon by one suite that runs against both.
 */
package io.github.sessiond.testing;
