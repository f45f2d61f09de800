// The backend of clients that come back: counts, on graphql-ws at /graphql and on Socket.IO at /socket.io/.
// `node feed.js PORT`; on SIGUSR2 it closes the WebSockets of graphql-ws with 1011.
'use strict';

const http = require('node:http');
const { GraphQLInt, GraphQLObjectType, GraphQLSchema } = require('graphql');
const { useServer } = require('graphql-ws/use/ws');
const { Server } = require('socket.io');
const { WebSocketServer } = require('ws');

async function* count() {
  for (let n = 0; ; n++) {
    yield { count: n };
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

const fields = { count: { type: GraphQLInt, subscribe: count } };
const schema = new GraphQLSchema({
  query: new GraphQLObjectType({ name: 'Query', fields: { count: { type: GraphQLInt } } }),
  subscription: new GraphQLObjectType({ name: 'Subscription', fields }),
});

const server = http.createServer();
new Server(server, { transports: ['websocket'] }).on('connection', async (socket) => {
  for await (const { count: n } of count()) {
    if (!socket.connected) break;
    socket.emit('count', n);
  }
});
const sockets = new WebSocketServer({ noServer: true });
useServer({ schema }, sockets);
server.on('upgrade', (request, socket, head) => {
  if (request.url !== '/graphql') return;
  sockets.handleUpgrade(request, socket, head, (opened) => sockets.emit('connection', opened, request));
});
process.on('SIGUSR2', () => sockets.clients.forEach((socket) => socket.close(1011, 'told to')));
server.listen(Number(process.argv[2]), '127.0.0.1');
