// Socket.IO as its documentation has it: `node socketio.js PORT`. It answers `echo` by its acknowledgement.
'use strict';

const { createServer } = require('node:http');
const { Server } = require('socket.io');

const http = createServer();
const io = new Server(http, { maxHttpBufferSize: 8 << 20 });
io.on('connection', (socket) => {
  socket.emit('hello', socket.handshake.headers['x-forwarded-for']);
  socket.on('echo', (data, acknowledge) => acknowledge(data));
});
http.listen(Number(process.argv[2]), '127.0.0.1');
