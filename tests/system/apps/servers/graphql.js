// graphql-ws on npm's `ws`: `node graphql.js PORT`. A query that greets, and a subscription that counts.
'use strict';

const { setTimeout: sleep } = require('node:timers/promises');
const { GraphQLInt, GraphQLObjectType, GraphQLSchema, GraphQLString } = require('graphql');
const { useServer } = require('graphql-ws/use/ws');
const { WebSocketServer } = require('ws');

async function* count() {
  for (let ticks = 1; ; ticks++) {
    yield { ticks };
    await sleep(50);
  }
}

const schema = new GraphQLSchema({
  query: new GraphQLObjectType({
    name: 'Query',
    fields: {
      greeting: { type: GraphQLString, args: { name: { type: GraphQLString } }, resolve: (_, { name }) => `hello ${name}` },
    },
  }),
  subscription: new GraphQLObjectType({
    name: 'Subscription',
    fields: { ticks: { type: GraphQLInt, subscribe: count } },
  }),
});

useServer({ schema }, new WebSocketServer({ host: '127.0.0.1', port: Number(process.argv[2]), path: '/graphql' }));
