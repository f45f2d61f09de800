// Clients that reconnect by themselves: graphql-ws and Socket.IO, each with its defaults, against `feed.js`.
// `node comeback.js PORT`, with NODE_EXTRA_CA_CERTS; a line `NAME fed`, `NAME lost WHY` or `NAME over WHY` for each change.
'use strict';

const { createClient } = require('graphql-ws');
const { io } = require('socket.io-client');
const WebSocket = require('ws');

const authority = `localhost:${process.argv[2]}`;

/// Says when data comes, comes no more, and will never come again.
function watch(name) {
  let fed = false;
  return {
    fed() {
      if (!fed) console.log(`${name} fed`);
      fed = true;
    },
    lost(why) {
      fed = false;
      console.log(`${name} lost ${why}`);
    },
    over: (why) => console.log(`${name} over ${why}`),
  };
}

const graphql = watch('graphql-ws');
const on = { closed: (event) => graphql.lost(event.code) };
createClient({ url: `wss://${authority}/graphql`, webSocketImpl: WebSocket, on }).subscribe(
  { query: 'subscription { count }' },
  { next: graphql.fed, error: (event) => graphql.over(event.code), complete: () => graphql.over('complete') },
);

const socketio = watch('socket.io');
const socket = io(`wss://${authority}`, { transports: ['websocket'] });
socket.on('count', socketio.fed);
socket.on('disconnect', socketio.lost);
