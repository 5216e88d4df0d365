// The forward server of @fluent-org/logger, with the handshake of Fluentd and Fluent Bit: if security is on, HELO has a salt
// in `auth` whether or not there are users, and the user of a PING counts only if there are some. Its options come as JSON in
// the first argument. It prints the port that it listens on, and then each event that it receives, one per line.

const path = require("path");
const protocol = require(path.join(path.dirname(require.resolve("@fluent-org/logger")), "protocol"));
const { FluentServer } = require("@fluent-org/logger");

// The server sends a salt in HELO only with `authorize`, which also makes it require a user.
const options = JSON.parse(process.argv[2]);
if (options.security) {
    options.security.authorize = true;
}
const checkPing = protocol.checkPing;
protocol.checkPing = (ping, hostname, key, users) => {
    if (!users || users.salt.length === 0) {
        throw new Error("HELO was sent without a salt");
    }
    return checkPing(ping, hostname, key, Object.keys(users.userDict).length > 0 ? users : undefined);
};

const server = new FluentServer({ listenOptions: { host: "127.0.0.1", port: 0 }, ...options });
server.on("entry", (tag, time, record) => {
    console.log(JSON.stringify({ tag, seconds: time.epoch, nanoseconds: time.nano, record }));
});
server.listen().then(() => console.log(server.port));
