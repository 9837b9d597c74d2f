// Embeddings: which text is nearest to a question.
import OpenAI from "openai";

const client = new OpenAI();
// Where the service serves models that chat too, say which one embeds.
const model = process.env.EMBEDDING_MODEL ?? (await client.models.list()).data[0].id;

const texts = ["Paris is the capital of France", "A cat sleeps sixteen hours a day", "Rust has no garbage collector"];
const answer = await client.embeddings.create({ model, input: ["How many hours a day does a cat sleep?", ...texts] });
const [question, ...vectors] = answer.data.map((item) => item.embedding);

// Vectors have length 1: the larger the product, the nearer the texts.
const nearness = vectors.map((vector) => vector.reduce((sum, value, at) => sum + value * question[at], 0));
console.log(texts[nearness.indexOf(Math.max(...nearness))]);
console.log(`${question.length} dimensions, ${answer.usage.total_tokens} tokens`);
