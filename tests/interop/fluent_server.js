// The forward server of @fluent-org/logger. Its options come as JSON in the first argument; it says on which port it
// listens, and then each event that it gets, a line each.

const { FluentServer } = require("@fluent-org/logger");

const server = new FluentServer({ listenOptions: { host: "127.0.0.1", port: 0 }, ...JSON.parse(process.argv[2]) });
server.on("entry", (tag, time, record) => {
    console.log(JSON.stringify({ tag, seconds: time.epoch, nanoseconds: time.nano, record }));
});
server.listen().then(() => console.log(server.port));
