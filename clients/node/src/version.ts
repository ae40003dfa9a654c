/** The version of this package, which is that of the daemon that it is made for. A test holds it to package.json. */
export const VERSION = '0.1.0';
